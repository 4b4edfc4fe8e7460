"""What is known of the quality of dictionaries, for a person or a program."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from hagd.cli.output import say, write_fields, write_json, write_line, write_table
from hagd.errors import RunError, UnknownNameError

_BAR: Final = 40
"""Characters of the longest bar of a histogram."""


def write_quality(folder: Path, run_id: str | None, *, as_json: bool) -> None:
    """Write the metrics of a run's dictionaries: by layer, together, and what they leave unexplained in three ways."""
    quality = _quality_of(folder, run_id)
    if as_json:
        write_json("dictionaries", quality)
        return
    layers = _layers_of(quality)
    names = list(dict.fromkeys(name for layer in layers for name, value in layer.items() if _is_plain(value)))
    names.sort(key=lambda name: (name != "layer", name != "kind"))
    write_table(names, [[layer.get(name) for name in names] for layer in layers])
    together = {name: value for name, value in quality.items() if _is_plain(value) and value is not None}
    if together:
        write_line("all layers together:")
        write_fields(together)
    if "completeness" in quality:
        write_line(f"unexplained, with 95 % intervals; the last two on {quality['n_traced']} traced prompts:")
        _write_three_ways(quality, layers)


def write_training(folder: Path, run_id: str, tensorboard: Path | None) -> None:
    """Write the report of a training on text into the run folder, event files where asked, and say where they are."""
    from hagd.extraction.event_files import write_event_files  # noqa: PLC0415
    from hagd.extraction.opened import OpenRun  # noqa: PLC0415
    from hagd.extraction.training_report import write_report  # noqa: PLC0415

    run = OpenRun.open(folder, run_id)
    say(f"curves are in {write_report(run)}")
    if tensorboard is not None:
        say(f"and for TensorBoard in {write_event_files(run, tensorboard)}")


def write_layer(folder: Path, run_id: str | None, layer: int, *, as_json: bool) -> None:
    """Write what is known of the features of one layer: how often they fire, and what some of them fire on most.

    Raises:
        UnknownNameError: the run has no dictionary of that layer.
        RunError: its dictionaries were not trained on text.
    """
    layers = {it.get("layer"): it for it in _layers_of(_quality_of(folder, run_id))}
    if layer not in layers:
        raise UnknownNameError(
            f"the run has no dictionary of layer {layer}", f"layers: {', '.join(map(str, layers)) or 'none'}"
        )
    found = layers[layer]
    if "density_histogram" not in found:
        raise RunError(
            "these dictionaries come without histogram and examples",
            "`hagd transcoder train --data FOLDER` gives dictionaries that have both",
        )
    if as_json:
        write_json("dictionary", found)
        return
    _write_densities(found)
    for feature in found.get("examples", []):
        write_line()
        write_line(f"feature {feature['feature']}{'' if feature['windows'] else ': silent on held-out text'}")
        for window in feature["windows"]:
            write_line(f"{window['values'][window['strongest']]:>9.3g}  {_marked(window)}")


def _write_densities(layer: Mapping[str, Any]) -> None:
    bounds, counts = layer["density_histogram"]["log10_bounds"], layer["density_histogram"]["counts"]
    most = max([1, *counts])
    rows: list[list[Any]] = [["never", round(layer["dead_share"] * layer["n_features"]), ""]]
    rows += [
        [f"1e{low:+.1f} to 1e{high:+.1f}", count, "#" * round(_BAR * count / most)]
        for (low, high), count in zip(pairwise(bounds), counts, strict=True)
    ]
    write_table(["share of tokens", "features", ""], rows)


def _marked(window: Mapping[str, Any]) -> str:
    """Give the text of a window with each token that the feature fires on in brackets, its value behind it."""
    parts = zip(window["texts"], window["values"], strict=True)
    return "".join(_one_line(text) if value == 0 else f"[{_one_line(text)}|{value:.2g}]" for text, value in parts)


def _one_line(text: str) -> str:
    """Escape what a terminal would act on."""
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)


def _quality_of(folder: Path, run_id: str | None) -> Mapping[str, Any]:
    from hagd.extraction.opened import OpenRun  # noqa: PLC0415
    from hagd.extraction.roles import DICTIONARIES  # noqa: PLC0415

    content = OpenRun.open(folder, run_id).data(DICTIONARIES)
    found: Mapping[str, Any] = content.get("metrics", content)
    if not found:
        raise RunError(
            "this run measured no dictionaries", "measure a folder of them: hagd transcoder eval FOLDER --data"
        )
    return found


def _layers_of(quality: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [layer for layer in quality.get("layers", []) if isinstance(layer, Mapping)]


def _write_three_ways(quality: Mapping[str, Any], layers: list[Mapping[str, Any]]) -> None:
    linear = sum(layer["fvu_linear"] for layer in layers) / len(layers)
    low, high = quality["completeness_ci95"]
    rows = [
        ["of the variance (mean FVU)", quality["fvu_mean"], *quality["fvu_mean_ci95"], linear, "best linear map"],
        [
            "of the influence (1 - completeness)",
            1 - quality["completeness"],
            1 - high,
            1 - low,
            1 - quality["completeness_control"],
            "decoders exchanged",
        ],
        [
            "of the credit (error credit)",
            quality["error_credit"],
            *quality["error_credit_ci95"],
            quality["error_credit_control"],
            "decoders exchanged",
        ],
    ]
    write_table(["share", "value", "low", "high", "control", "which is"], rows)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
