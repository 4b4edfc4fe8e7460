"""Both sides in processes of their own, one thread each, in turns; and their graphs compared."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file

from benchmarks.attribution.subject import make_module, make_subject, save
from benchmarks.rivals import CIRCUIT_TRACER, rival_python
from benchmarks.tables import BUILD, Row
from hagd.models.precision import multiplies_bfloat16

HERE: Final = Path(__file__).parent
N_POS: Final = 64
_HALF: Final = multiplies_bfloat16(torch.device("cpu"))


@dataclass(frozen=True)
class Size:
    """A number of active features, with what is asked there."""

    active: int
    floor: float
    half_floor: float | None
    batches: tuple[int, ...]
    """Batch sizes of the rival among which its best one counts."""
    turns: int


PRUNED: Final = 5_000
"""Where pruning is asked to be fast, and masks of graphs that each side built to be equal."""
SIZES: Final = (
    Size(2_000, 8.0, None, (8, 16, 32), 5),
    Size(5_000, 9.0, 11.0, (16, 32), 3),
    Size(10_000, 15.0, 22.0, (16, 32), 2),
)


def measure_speed() -> list[Row]:
    """Compare times, edges, masks and memory."""
    rows: list[Row] = []
    for size in SIZES:
        folder = _subject(size.active, N_POS)
        ours, theirs = _in_turns(folder, size)
        # Products in bfloat16 leave other edges in the same file.
        compared = _compared(folder, size.active)
        best = min(theirs["seconds"].values())
        note = f"{ours['seconds']:.2f} and {best:.2f} s, {ours['features']} features"
        measure = f"{size.active} features: circuit-tracer beside ours"
        rows.append(Row(measure, best / ours["seconds"], size.floor, note=note))
        if size.half_floor is not None:
            # Where the processor does not multiply bfloat16, the same as above.
            half = ours if not _HALF else _ours(folder, "--half", "--repeats", str(size.turns))
            note = f"{half['seconds']:.2f} s" + ("" if _HALF else ", in float32: no instructions for bfloat16 here")
            measure = f"{size.active} features, products in bfloat16"
            rows.append(Row(measure, best / half["seconds"], size.half_floor, note=note))
        rows += compared
        if size.active == PRUNED:
            ratio = theirs["prune_seconds"] / ours["prune_seconds"]
            note = f"{1e3 * ours['prune_seconds']:.0f} ms and {theirs['prune_seconds']:.2f} s"
            rows.append(Row(f"{PRUNED} features: pruning", ratio, 30.0, note=note))
        if size.active == 10_000:
            share = ours["memory_bytes"] / theirs["memory_bytes"]
            note = f"{ours['memory_bytes'] / 2**20:.0f} and {theirs['memory_bytes'] / 2**20:.0f} MiB of the process"
            rows.append(Row("10000 features: peak memory beside theirs", share, 0.6, at_most=True, note=note))
    return rows


def measure_long() -> list[Row]:
    """Trace a prompt of 1,024 tokens."""
    folder = _subject(20_000, 1024)
    ours = _ours(folder, "--nodes", "8000")
    note = f"8000 of 20000 features by influence, {ours['seconds']:.0f} s, missed {ours['missed_influence']:.3f}"
    return [Row("1024 tokens: memory (GiB)", ours["memory_bytes"] / 2**30, 6.0, at_most=True, note=note)]


def _subject(active: int, n_pos: int) -> Path:
    folder = BUILD / "attribution" / f"{active}-{n_pos}"
    module = make_module(0)
    save(make_subject(module, n_pos, active, 1), folder, module)
    return folder


def _in_turns(folder: Path, size: Size) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Give the best of several turns of both sides, which alternate."""
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    for _ in range(size.turns):
        ours = _best(ours, _ours(folder, "--prune"))
        batches = [str(batch) for batch in size.batches]
        theirs = _best(theirs, _theirs(folder, "--prune", "--batches", *batches))
    return ours, theirs


def _best(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Keep the shorter times; and of memory, which differs by what was asked before, the smaller."""
    if not before:
        return now
    merged = dict(now)
    for name in ("prune_seconds", "memory_bytes"):
        merged[name] = min(before[name], now[name])
    if isinstance(now["seconds"], dict):
        merged["seconds"] = {batch: min(before["seconds"][batch], value) for batch, value in now["seconds"].items()}
    else:
        merged["seconds"] = min(before["seconds"], now["seconds"])
    return merged


def _compared(folder: Path, active: int) -> list[Row]:
    """Compare the edges, and which of them pruning keeps."""
    # Their graph pruned by ours, too: where both prune their own, rounding puts edges on either side of the cut.
    ours, theirs = load_file(folder / "ours.safetensors"), load_file(folder / "rival.safetensors")
    _ours(folder, "--prune-theirs")
    pruned = load_file(folder / "ours.safetensors")
    if not torch.equal(ours["features"], theirs["features"]) or not torch.equal(ours["logits"], theirs["logits"]):
        return [Row(f"{active} features: the same nodes", 0.0, 1.0)]
    width = ours["rows"].shape[1]
    edges = theirs["adjacency"][ours["row_nodes"]][:, :width]
    difference = float((ours["rows"] - edges).abs().max() / edges.abs().max())
    kept = theirs["edges"][ours["row_nodes"]][:, :width]
    own, same = (
        int((it["edges"] != kept).sum()) + int((it["nodes"] != theirs["nodes"]).sum()) for it in (ours, pruned)
    )
    note = f"{int(kept.sum())} edges are kept"
    return [
        Row(f"{active} features: largest difference of an edge", difference, 1e-5, at_most=True),
        Row(f"{active} features: entries of masks that differ, same graph", same, 0, at_most=True, note=note),
        Row(
            f"{active} features: the same, each side's own graph",
            own,
            0 if active == PRUNED else None,
            at_most=True,
        ),
    ]


def _ours(folder: Path, *asked: str) -> dict[str, Any]:
    return _run([sys.executable, "-m", "benchmarks.attribution.our_attribute", str(folder), *asked])


def _theirs(folder: Path, *asked: str) -> dict[str, Any]:
    python = rival_python(*CIRCUIT_TRACER)
    return _run([str(python), str(HERE / "rival_attribute.py"), str(folder), *asked])


def _run(command: list[str]) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
