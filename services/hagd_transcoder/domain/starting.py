"""Where the weights of a dictionary start.

At the MLP itself: the neurons, ordered by usage, are the first features, so that with k = all features the error is
zero and annealing k only has to keep it small. This matters most where inputs are few.
"""

from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary, neurons_of
from hagd.models.language_model import Mlp

_READ: Final = 0.5
"""Standard deviation of the pre-activations of random encoders."""
_WRITTEN: Final = 0.03
"""Norm of a random decoder, beside the distance of the MLP's output to its mean."""


@dataclass(frozen=True)
class Start:
    """What is asked for."""

    n_features: int
    place: Literal["mlp", "random"]
    """At the MLP's own weights, or at random ones."""
    skip: bool
    """Whether there is a linear path beside the features; it starts at zero."""
    activation: str
    """Of the features, a name in `ACTIVATIONS`."""
    gated: bool
    """Whether encoders have a gate; beside MLPs without one there is nothing to start it at. Plain ones beside gated
    MLPs start at random: such neurons have no plain form."""


def starting_tensors(
    start: Start, mlp: Mlp, layer: int, x: Float[Tensor, "token d_model"], generator: torch.Generator
) -> dict[str, Tensor]:
    """Give the tensors of a `Dictionary` by name; what its MLP reads, `x`, ranks the neurons by usage."""
    if start.place == "random":
        tensors = _at_random(start, mlp, x, generator)
    else:
        tensors = _at_mlp(start.n_features, mlp, layer, mlp.neurons(x), generator)
    if start.skip:
        tensors["w_skip"] = x.new_zeros(x.shape[-1], x.shape[-1])
    return tensors


def starting_dictionary(
    start: Start, mlp: Mlp, layer: int, x: Float[Tensor, "token d_model"], generator: torch.Generator
) -> Dictionary:
    """Give the same as a dictionary that keeps every feature."""
    tensors = starting_tensors(start, mlp, layer, x, generator)
    return Dictionary(
        kind="gated" if start.gated else "transcoder",
        layer=layer,
        activation=start.activation,
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
    n_features: int, mlp: Mlp, layer: int, neurons: Float[Tensor, "token d_mlp"], generator: torch.Generator
) -> dict[str, Tensor]:
    """Give the strongest neurons (by mean |activation| times output norm) first, then random encoders that write
    nothing yet."""
    usage = neurons.abs().mean(0) * mlp.w_out.norm(dim=-1)
    chosen = usage.argsort(descending=True, stable=True)[:n_features]
    extra = n_features - len(chosen)
    exact = neurons_of(mlp, layer)

    def widen(weight: Tensor) -> Tensor:
        kept = weight[:, chosen]
        noise = torch.randn(weight.shape[0], extra, generator=generator).to(weight) * weight.std()
        return torch.cat([kept, noise], dim=1)

    tensors = {
        "w_enc": widen(exact.w_enc),
        "b_enc": torch.cat([exact.b_enc[chosen], exact.b_enc.new_zeros(extra)]),
        "w_dec": torch.cat([exact.w_dec[chosen], exact.w_dec.new_zeros(extra, exact.w_dec.shape[1])]),
        "b_dec": exact.b_dec.clone(),
    }
    if exact.w_gate is not None:
        tensors["w_gate"] = widen(exact.w_gate)
        tensors["b_gate"] = exact.b_enc.new_zeros(n_features)
    return tensors


def _at_random(
    start: Start, mlp: Mlp, x: Float[Tensor, "token d_model"], generator: torch.Generator
) -> dict[str, Tensor]:
    """Give encoders whose pre-activations are about `_READ`, and decoders that write little: a step of the
    optimiser, which is as large for every weight, then turns encoders by little and decoders by much."""
    out = mlp(x)
    mean, reads = out.mean(0), x.square().sum(-1).mean().sqrt()
    writes = _WRITTEN * (out - mean).square().sum(-1).mean().sqrt()

    def read() -> Tensor:
        return _READ * torch.randn(x.shape[-1], start.n_features, generator=generator).to(x) / reads

    # Drawn on the CPU, so that the seed gives the same on every device.
    directions = torch.randn(start.n_features, out.shape[-1], generator=generator).to(x)
    tensors = {"w_enc": read(), "b_enc": x.new_zeros(start.n_features), "b_dec": mean}
    tensors["w_dec"] = directions / directions.norm(dim=-1, keepdim=True) * writes
    if start.gated:
        tensors |= {"w_gate": read(), "b_gate": x.new_zeros(start.n_features)}
    return tensors
