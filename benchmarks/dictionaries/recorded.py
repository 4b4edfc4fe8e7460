"""What MLPs read and write on a text, in files, for a rival that trains on nothing else; and its results read back."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap

from benchmarks.rivals import SPARSIFY, rival_python
from hagd.corpora.corpus import Windows
from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats.found import make_transcoder
from hagd.models.language_model import LanguageModel
from hagd.models.trunk import Passage, run_trunk

HERE = Path(__file__).parent
_BATCH = 16


def record_text(
    model: LanguageModel,
    windows: Windows,
    layers: Sequence[int],
    folder: Path,
    most_tokens: int,
    suffix: str = "",
    *,
    half: bool = False,
) -> None:
    """Write `x` and `out` of every layer to `folder/LAYER`, position 0 left out; `half` as of `run_trunk`."""
    numbers = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    parts = [windows.batch(part) for part in numbers.split(_BATCH)]
    total, used = 0, list[Any]()
    for batch in parts:
        if total >= most_tokens:
            break
        used.append(batch)
        total += int(batch.counted.sum())
    width, at = model.config.d_model, dict.fromkeys(layers, 0)
    arrays = {
        (layer, name): _array(folder / str(layer) / f"{name}{suffix}.npy", (total, width))
        for layer in layers
        for name in ("x", "out")
    }

    def visit(layer: int, passage: Passage) -> None:
        if layer in at:
            rows = slice(at[layer], at[layer] + int(counted.sum()))
            arrays[layer, "x"][rows] = passage.x[counted].numpy()
            arrays[layer, "out"][rows] = passage.out[counted].numpy()
            at[layer] = rows.stop

    for batch in used:
        counted = batch.counted
        run_trunk(model, batch.tokens, visit, upto=max(layers), half=half)


def _array(path: Path, shape: tuple[int, int]) -> np.memmap:
    path.parent.mkdir(parents=True, exist_ok=True)
    return open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def train_rival(folder: Path, **asked: object) -> Mapping[str, float]:
    """Train eai-sparsify on a recorded layer; give what it answers. `rival_train.py` lists what may be asked."""
    command = [str(rival_python(*SPARSIFY)), str(HERE / "rival_train.py"), str(folder)]
    for name, value in asked.items():
        command += [f"--{name.replace('_', '-')}"] if value is True else [f"--{name.replace('_', '-')}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SPARSIFY_DISABLE_TRITON": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def rival_dictionary(folder: Path, layer: int, k: int) -> Dictionary:
    """Read the weights that the rival left."""
    weights = {name: torch.from_numpy(value) for name, value in np.load(folder / "weights.npz").items()}
    return make_transcoder(
        layer,
        w_enc=weights["w_enc"],
        b_enc=weights["b_enc"],
        w_dec=weights["w_dec"],
        b_dec=weights["b_dec"],
        w_skip=weights.get("w_skip"),
        k=k,
        ranked_by="activation",
    )
