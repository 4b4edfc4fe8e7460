"""The report of a training: well-formed, alone, and true to the numbers."""

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from hagd.dictionaries.history import TrainingHistory
from hagd.extraction.charts import HEIGHT, WIDTH, Axis, Chart, colours, number_text, page
from hagd.extraction.training_report import draw_training

SVG = "{http://www.w3.org/2000/svg}"
LAYERS = (0, 3, 4)


def history() -> TrainingHistory:
    stretches = np.arange(1, 8)[:, None]
    return TrainingHistory(
        LAYERS,
        1000 * np.arange(1, 8),
        np.repeat(2.0 * stretches, 3, axis=1),
        np.array([0.5, 0.2, 0.1]) / stretches,
        np.full((7, 3), 11.0),
        np.zeros((7, 3)),
        np.array([0.5, 0.25]),
    )


def metrics(name: str = "tiny") -> dict[str, Any]:
    layer = {"n_features": 13, "dead_share": 2 / 13, "fvu_linear": 0.5}
    histogram = {"log10_bounds": [-2.0, -1.0, 0.0], "counts": [7, 4]}
    return {
        "model": {"source": {"name": name}},
        "plan": {"k": 5, "start": {"n_features": 13}},
        "fvu_mean": 0.25,
        "fvu_worst": 0.375,
        "kl_nats": 0.125,
        "layers": [
            layer | {"layer": number, "fvu": 0.125 * (place + 1), "density_histogram": histogram}
            for place, number in enumerate(LAYERS)
        ],
    }


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314  # written by us


def test_every_layer_has_a_line_in_each_chart_and_two_bars_that_grow_with_what_is_unexplained() -> None:
    root = parsed(draw_training(history(), metrics()))
    charts = root.findall(f"{SVG}g")
    assert [len(chart.findall(f"{SVG}polyline")) for chart in charts] == [3, 3, 3, 3, 3, 0, 1]
    assert charts[6].findtext(f"{SVG}polyline/{SVG}title") == "fine-tuning, 0.25 at the end"
    without = parsed(draw_training(replace(history(), kl_nats=np.zeros(0)), metrics()))
    assert len(without.findall(f"{SVG}g")) == 6
    bars = charts[5].findall(f"{SVG}rect")
    heights = [float(bar.get("height", "")) for bar in bars]
    assert heights[1] / heights[0] == pytest.approx(0.25, rel=0.01)
    assert heights[5] / heights[4] == pytest.approx(0.75, rel=0.01)
    assert [bar.findtext(f"{SVG}title") for bar in bars[4:]] == ["layer 4, linear map 0.5", "layer 4, dictionary 0.375"]
    speeds = charts[3].findall(f"{SVG}polyline/{SVG}title")
    assert [it.text for it in speeds] == [f"layer {layer}, 500 at the end" for layer in LAYERS]


def test_it_needs_nothing_from_elsewhere_and_holds_what_a_model_may_be_called() -> None:
    text = draw_training(history(), metrics('<script>"a&b"\x1b\x00</script>'))
    root = parsed(text)
    assert root.get("aria-label") == 'Dictionaries of <script>"a&b"</script>'
    assert "script" not in {element.tag.removeprefix(SVG) for element in root.iter()}
    assert not [name for element in root.iter() for name in element.attrib if "href" in name or name == "src"]


def test_lines_stay_inside_their_chart_whatever_they_hold() -> None:
    chart = Chart("x", Axis("", 0, 10), Axis.over("", [1e-30, 3.0], log=True))
    chart.line([0, 5, 20], [1e-30, float("nan"), 1e9], "#000000", "wild")
    drawn = parsed(page("x", [], [chart])).find(f"{SVG}g/{SVG}polyline")
    assert drawn is not None
    points = [tuple(map(float, point.split(","))) for point in drawn.get("points", "").split()]
    assert len(points) == 2
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("", 0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis("", 0, 37_000), [0, 10_000, 20_000, 30_000]),
        (Axis("", -5, 0), [-5, -4, -3, -2, -1, 0]),
        (Axis("", 0.001, 1, log=True), [0.001, 0.01, 0.1, 1]),
        (Axis.over("", []), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis.over("", [7.0, 7.0]), [7, 7.2, 7.4, 7.6, 7.8, 8]),
    ],
)
def test_ticks_are_round(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)


def test_numbers_are_short_and_colours_differ() -> None:
    assert [number_text(it) for it in (0.05, 12_000, 3_400_000, 1e-5, 2)] == ["0.05", "12k", "3.4M", "1e-05", "2"]
    assert len(set(colours(30))) == 30
    assert colours(1) == ["#440154"]
