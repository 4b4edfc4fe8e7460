"""What `hagd transcoder train --dry-run` tells of time and memory, beside what the same command then takes."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.dictionaries.prose import write_prose
from benchmarks.tables import BUILD, Row

OFF_BY: Final = 0.25
"""How far either may be off."""
HAGD: Final = (sys.executable, "-c", "from hagd.cli.app import main; main()")
STAGE: Final = "corpus-transcoder"
ASKED: Final[dict[str, tuple[str, ...]]] = {
    "4 layers, float32, 60,000 tokens": ("layers=[2,9,15,28]", "tokens=60000"),
    "all layers, bfloat16, 24,000 tokens": ("tokens=24000", "precision=bfloat16"),
    "2 layers, F=4608, BatchTopK, 40,000 tokens": (
        "layers=[9,22]",
        "n_features=4608",
        "rule=batch-topk",
        "tokens=40000",
    ),
    "across layers, tied, F=512, 16,000 tokens": (
        "kind=cross-layer",
        "decoders=tied",
        "n_features=512",
        "tokens=16000",
    ),
}
"""Of SmolLM2-135M: what is set, by what it is."""


def measure_estimates() -> list[Row]:
    """Tell, train and compare each; give the rows."""
    path = BUILD / "prose.jsonl"
    if not path.exists():
        write_prose(path)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=BUILD) as place:
        for number, (title, fields) in enumerate(ASKED.items()):
            rows += _compared(title, fields, path, Path(place, str(number)), Path(place, "store"))
    return rows


def _compared(title: str, fields: Sequence[str], text: Path, out: Path, store: Path) -> list[Row]:
    common = ("transcoder", "train", "--data", str(text), "--model", "smollm2", "--store", str(store), "--quiet")
    settings = [part for field in fields for part in ("--set", f"{STAGE}.{field}")]
    read = ("--set", "corpus.most_tokens=100000", "--out", str(out), "--json")
    told = _last(_answer(*common, *settings, *read, "--dry-run")["plan"], "stage_id")["estimate"]
    _answer(*common, *settings, *read)
    taken = _last(_answer("run", "status", str(out), "--json")["stages"], "stage_id")
    rows: list[Row] = []
    for what, expected, found, unit in (
        ("time", told["seconds"], taken["seconds"], "s"),
        ("memory", told["peak_bytes"] / 2**20, taken["peak_rss_bytes"] / 2**20, "MiB"),
    ):
        note = f"{expected:.0f} told, {found:.0f} {unit} taken"
        rows.append(Row(f"{title}: {what} off by", abs(expected / found - 1), OFF_BY, at_most=True, note=note))
    return rows


def _last(stages: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(stage for stage in stages if stage[name] == STAGE)


def _answer(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([*HAGD, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)["data"]
