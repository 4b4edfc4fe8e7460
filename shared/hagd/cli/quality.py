"""What is known of the quality of dictionaries, for a person or a program."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hagd.cli.output import write_fields, write_json, write_line, write_table


def write_quality(folder: Path, run_id: str | None, *, as_json: bool) -> None:
    """Write the metrics of a run's dictionaries: by layer, together, and what they leave unexplained in three ways."""
    from hagd.extraction.opened import OpenRun  # noqa: PLC0415
    from hagd.extraction.roles import DICTIONARIES  # noqa: PLC0415

    content = OpenRun.open(folder, run_id).data(DICTIONARIES)
    quality: Mapping[str, Any] = content.get("metrics", content)
    if as_json:
        write_json("dictionaries", quality)
        return
    layers: list[Mapping[str, Any]] = [layer for layer in quality.get("layers", []) if isinstance(layer, Mapping)]
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
