"""Where the weights of a dictionary start.

At the MLP itself: the neurons, ordered by usage, are the first features, so that with k = all features the error is
zero and annealing k only has to keep it small. This matters most where inputs are few. Features beyond the neurons
start at tokens that a few neurons explain badly: each reads what is like its token, and writes what is missing there.
Started at random they would never be chosen beside the neurons, and stay dead.
"""

from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary, keep_top, neurons_of
from hagd.models.language_model import ACTIVATIONS, Mlp


@dataclass(frozen=True)
class Start:
    """What is asked for."""

    n_features: int
    place: Literal["mlp", "random"]
    """At the MLP's own weights, or at random ones of the same size."""
    skip: bool
    """Whether there is a linear path beside the features; it starts at zero."""
    k: int
    """How many features a token keeps in the end: what so many neurons leave unexplained is where others start."""


def starting_tensors(
    start: Start, mlp: Mlp, layer: int, x: Float[Tensor, "token d_model"], generator: torch.Generator
) -> dict[str, Tensor]:
    """Give the tensors of a `Dictionary` by name; what its MLP reads, `x`, ranks the neurons by usage."""
    tensors = _at_mlp(start, mlp, layer, x, generator)
    if start.place == "random":
        tensors = {name: _like(tensor, generator) for name, tensor in tensors.items()}
        tensors["b_dec"] = mlp(x).mean(0)
    if start.skip:
        tensors["w_skip"] = torch.zeros(x.shape[-1], x.shape[-1])
    return tensors


def starting_dictionary(
    start: Start, mlp: Mlp, layer: int, x: Float[Tensor, "token d_model"], generator: torch.Generator
) -> Dictionary:
    """Give the same as a dictionary that keeps every feature."""
    tensors = starting_tensors(start, mlp, layer, x, generator)
    return Dictionary(
        kind="transcoder" if mlp.w_gate is None else "gated",
        layer=layer,
        activation=mlp.activation,
        k=None,
        w_gate=tensors.get("w_gate"),
        b_gate=tensors.get("b_gate"),
        w_enc=tensors["w_enc"],
        b_enc=tensors["b_enc"],
        w_dec=tensors["w_dec"],
        b_dec=tensors["b_dec"],
        w_skip=tensors.get("w_skip"),
    )


def variance_of(out: Float[Tensor, "token d_model"]) -> float:
    """Give the mean squared distance of an MLP's output to its mean, per token, and never zero: the unit of losses."""
    return max(float((out - out.mean(0)).square().sum(-1).mean()), 1e-12)


def _at_mlp(
    start: Start, mlp: Mlp, layer: int, x: Float[Tensor, "token d_model"], generator: torch.Generator
) -> dict[str, Tensor]:
    """Give the strongest neurons (by mean |activation| times output norm) first, then features that start at tokens."""
    exact, neurons = neurons_of(mlp, layer), mlp.neurons(x)
    norms = mlp.w_out.norm(dim=-1)
    chosen = (neurons.abs().mean(0) * norms).argsort(descending=True, stable=True)[: start.n_features]
    tensors = {
        "w_enc": exact.w_enc[:, chosen],
        "b_enc": exact.b_enc[chosen],
        "w_dec": exact.w_dec[chosen],
        "b_dec": exact.b_dec.clone(),
    }
    if exact.w_gate is not None:
        tensors["w_gate"], tensors["b_gate"] = exact.w_gate[:, chosen], torch.zeros(len(chosen))
    if (extra := start.n_features - len(chosen)) > 0:
        missing = neurons @ mlp.w_out - keep_top(neurons, norms, start.k) @ mlp.w_out
        beyond = _at_tokens(extra, mlp.activation, x, missing, gated=exact.w_gate is not None, generator=generator)
        for name, tensor in beyond.items():
            tensors[name] = torch.cat([tensors[name], tensor], dim=1 if name in {"w_enc", "w_gate"} else 0)
    return tensors


def _at_tokens(
    count: int,
    activation: str,
    x: Float[Tensor, "token d_model"],
    missing: Float[Tensor, "token d_model"],
    *,
    gated: bool,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Give features that are active on inputs like those of drawn tokens, and write what is missing there."""
    weights = missing.square().sum(-1).clamp_min(1e-12)
    drawn = torch.multinomial(weights, count, replacement=count > len(x), generator=generator)
    mean = x.mean(0)
    away = x[drawn] - mean
    reads = _STEEPNESS * away / away.square().sum(-1, keepdim=True).clamp_min(1e-12)
    bias = -reads @ mean - _STEEPNESS / 2
    reached = ACTIVATIONS[activation](torch.tensor(_STEEPNESS / 2))
    tensors = {"w_dec": missing[drawn] / reached}
    if not gated:
        return tensors | {"w_enc": reads.T, "b_enc": bias}
    still = torch.zeros_like(reads.T)
    return tensors | {"w_gate": reads.T, "b_gate": bias, "w_enc": still, "b_enc": torch.ones(count)}


_STEEPNESS: Final = 4.0
"""Pre-activation of a feature between the mean input and its token; it begins to be active half-way."""


def _like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Give noise of the same size; biases start at zero."""
    if tensor.dim() == 1:
        return torch.zeros_like(tensor)
    return torch.randn(tensor.shape, generator=generator) * tensor.std()
