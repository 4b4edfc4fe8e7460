"""The time of a training step beside that of eai-sparsify, and the error of its gradients.

One thread each, in turns, so that whatever else the machine does is shared out; the ratio is that of paired rounds,
with a bootstrap interval over them.
"""

import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from benchmarks.dictionaries.size import Size
from benchmarks.rivals import SPARSIFY, rival_python
from benchmarks.tables import Row
from hagd.dictionaries.dictionary import Dictionary
from hagd_transcoder.domain.sparse.step import Encoder, sparse_step
from hagd_transcoder.domain.sparse.trainer import rows_of

ROUNDS: Final = 3
SIZES: Final = (Size(768, 12288), Size(512, 8192), Size(576, 9216))
HERE: Final = Path(__file__).parent


def measure_steps() -> list[Row]:
    """Measure every size; give the rows."""
    python, rows = rival_python(*SPARSIFY), list[Row]()
    for size in SIZES:
        name = f"d={size.width}, F={size.features}, k={size.k}"
        seconds = [_round(size, python) for _ in range(ROUNDS)]
        theirs, single, half = (list(column) for column in zip(*seconds, strict=True))
        floors = (1.5, 2.2) if size.width == 768 else (1.4, 1.4)
        for label, own, floor in (("32 bits", single, floors[0]), ("16-bit encoder", half, floors[1])):
            ratios = [a / b for a, b in zip(theirs, own, strict=True)]
            low, high = _interval(ratios)
            rate = size.tokens / statistics.median(own)
            note = f"95 % {low:.2f}-{high:.2f}; {rate:,.0f} layer-tokens per CPU second"
            rows.append(Row(f"times faster, {name}, {label}", statistics.median(ratios), floor, note=note))
    rows.append(Row("largest relative error of a gradient", gradient_error(), 1e-6, at_most=True))
    return rows


def _round(size: Size, rival: Path) -> tuple[float, float, float]:
    """Give seconds per step: theirs, ours, ours with the encoder's product in 16 bits."""
    own = [sys.executable, "-m", "benchmarks.dictionaries.own_step", size.to_argument()]
    theirs = [str(rival), str(HERE / "rival_step.py"), size.to_argument()]
    return _seconds(theirs), _seconds(own), _seconds([*own, "half"])


def _seconds(command: Sequence[str]) -> float:
    # Its Triton kernels need a GPU; the eager ones are what it uses without.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "SPARSIFY_DISABLE_TRITON": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def _interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """Give the 95 % bootstrap interval of the median."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def gradient_error(seed: int = 0) -> float:
    """Give the largest relative error, over weights and kinds, against autograd in 64 bits through the dense form."""
    worst = 0.0
    for gated in (False, True):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, by: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(*shape, generator=by)

        parts = (draw(64, 512) / 8 if gated else None, draw(512) if gated else None, draw(64, 512) / 8, draw(512))
        dictionary = Dictionary(
            "gated" if gated else "transcoder",
            0,
            "silu" if gated else "relu",
            16,
            *parts,
            draw(512, 64) / 8,
            draw(64),
            draw(64, 64) / 8,
        )
        weights, x, out = rows_of(dictionary), draw(256, 64), draw(256, 64)
        found = sparse_step(weights, x, out, Encoder(dictionary.activation, 16), 64.0).gradients
        exact = {name: tensor.double().requires_grad_() for name, tensor in weights.items()}
        gate = exact.get("gate")
        dense = Dictionary(
            dictionary.kind,
            0,
            dictionary.activation,
            16,
            None if gate is None else gate.T,
            exact.get("b_gate"),
            exact["enc"].T,
            exact["b_enc"],
            exact["dec"],
            exact["b_dec"],
            exact["skip"],
        )
        error = out.double() - dense.decode(dense.encode(x.double()), x.double())
        wanted = torch.autograd.grad(error.square().sum(-1).mean() / 64.0, list(exact.values()))
        for name, gradient in zip(exact, wanted, strict=True):
            worst = max(worst, float((found[name] - gradient).norm() / gradient.norm()))
    return worst
