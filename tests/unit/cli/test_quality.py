"""What a person sees of the quality of dictionaries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hagd.cli.quality import write_layer, write_quality
from hagd.extraction.opened import OpenRun

LAYER: dict[str, Any] = {
    "layer": 5,
    "kind": "gated",
    "n_features": 7,
    "fvu": 0.125,
    "fvu_ci95": [0.1, 0.15],
    "fvu_linear": 0.5,
    "error_credit": 0.25,
    "dead_share": 2 / 7,
    "density_histogram": {"log10_bounds": [-2.0, -1.0, 0.0], "counts": [4, 1]},
    "examples": [
        {
            "feature": 3,
            "windows": [
                {
                    "document": 11,
                    "strongest": 2,
                    "tokens": [8, 9, 10, 11],
                    "texts": ["The", " cat", " sat", "\n\x1b[31m"],
                    "values": [0.0, 0.5, 4.25, 0.0],
                }
            ],
        },
        {"feature": 6, "windows": []},
    ],
}
QUALITY: dict[str, Any] = {
    "fvu_mean": 0.125,
    "fvu_mean_ci95": [0.1, 0.15],
    "completeness": 0.75,
    "completeness_ci95": [0.7, 0.875],
    "completeness_control": 0.5,
    "error_credit": 0.25,
    "error_credit_ci95": [0.2, 0.375],
    "error_credit_control": 0.625,
    "n_traced": 13,
    "layers": [LAYER],
}


class _Run:
    def data(self, role: str) -> Mapping[str, Any]:
        assert role == "dictionaries"
        return {"metrics": QUALITY}


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenRun, "open", lambda *_: _Run())


def test_the_three_shares_stand_beside_their_intervals_and_controls(capsys: pytest.CaptureFixture[str]) -> None:
    write_quality(Path("x"), None, as_json=False)
    out = capsys.readouterr().out
    assert "13 traced prompts" in out
    rows = [line.split("  ") for line in out.splitlines() if line.startswith("of the ")]
    numbers = [[cell.strip() for cell in row[1:] if cell.strip()][:4] for row in rows]
    assert numbers == [
        ["0.125", "0.1", "0.15", "0.5"],
        ["0.25", "0.125", "0.3", "0.5"],
        ["0.25", "0.2", "0.375", "0.625"],
    ]


def test_a_layer_is_shown_by_densities_and_by_the_tokens_its_features_fire_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_layer(Path("x"), None, 5, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["never", "2"],
        ["1e-2.0", "to", "1e-1.0", "4", "#" * 40],
        ["1e-1.0", "to", "1e+0.0", "1", "#" * 10],
    ]
    assert lines[5:] == [
        "feature 3",
        r"     4.25  The[ cat|0.5][ sat|4.2]\n\x1b[31m",
        "",
        "feature 6: silent on held-out text",
    ]
