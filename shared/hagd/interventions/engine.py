"""Run a circuit in the real model: nodes inside run live on the mixed residual, nodes outside take donor values.

`mlp_out = sum_C f_j(h) d_j + sum_notC f_j(h') d_j + b + skip + error` is computed as the donor's MLP output plus
the differences of the live nodes, so that the cost follows the size of the circuit. Softmax and norms are live.
Three savings matter on large models, all exact: nothing is computed at (layer, position) where no node is live;
in the last layer only the answer positions are computed; and a run may start at a later layer from the
residuals of a `CircuitRun` that agrees below it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd.errors import InvalidInputError
from hagd.interventions.activations import Activations, Subject
from hagd.interventions.gates import Gates
from hagd.models.attention import attend, write_heads
from hagd.models.language_model import Mlp, Rotary

ErrorSetting = Literal["corrupted", "zero", "live"]


@dataclass(frozen=True)
class CircuitRun:
    """The logits of a run and the residual entering each layer, from which later runs may start."""

    logits: Float[Tensor, "*batch answer vocab"]
    residuals: tuple[Float[Tensor, "... pos d_model"], ...]
    """Layers below a shared prefix keep the prefix's leading axes."""


def run_circuit(
    subject: Subject,
    tokens: Int[Tensor, "batch pos"],
    answer_positions: tuple[int, ...],
    donor: Activations,
    gates: Gates,
    *,
    errors: ErrorSetting = "corrupted",
    patterns: tuple[Float[Tensor, "batch head pos pos"], ...] | None = None,
    start: int = 0,
    base: CircuitRun | None = None,
    skip_closed: bool = False,
) -> CircuitRun:
    """Run the circuit given by `gates` on `tokens`, everything outside replaced by `donor`.

    `errors` says what the error of a refined block does when its gate is 0: take the donor's value
    (the headline), or be zero; `live` runs every error as if its gate were 1. `patterns` freezes attention.
    Under autograd every node is computed, since a gate of 0 has a gradient too; `skip_closed` leaves out what is
    closed, for gates whose own gradient is 0 there (clamped ones).
    `start` and `base` skip the layers below `start`, where the circuit must equal that of `base`.

    Raises:
        InvalidInputError: `start` is given without `base`.
    """
    if start and base is None:
        raise InvalidInputError(f"a run from layer {start} needs the run it continues", "give base, or start at 0")
    model = subject.model
    last = model.config.n_layers - 1
    n_pos = tokens.shape[1]
    rotary = model.rotary(n_pos)
    answers = torch.tensor(sorted(set(answer_positions)), device=tokens.device)
    everywhere = torch.arange(n_pos, device=tokens.device)
    if base is not None and start:
        resid, residuals = base.residuals[start], list(base.residuals[:start])
    else:
        live = model.embed[tokens]
        resid = donor.embed + gates.tokens[..., None] * (live - donor.embed) + model.position_part(n_pos)
        residuals = []
    for layer in range(start, last + 1):
        residuals.append(resid)
        wanted = answers if layer == last else everywhere
        pattern = None if patterns is None else patterns[layer]
        attended = resid + _attention_out(subject, layer, resid, wanted, donor, gates, rotary, pattern, skip_closed)
        heard = model.mlp_reads(resid, attended)
        resid = attended + _mlp_out(subject, layer, heard, wanted, donor, gates, errors, skip_closed)
    return CircuitRun(model.logits(resid[..., list(answer_positions), :]), tuple(residuals))


def _attention_out(
    subject: Subject,
    layer: int,
    resid: Float[Tensor, "*batch pos d_model"],
    wanted: Int[Tensor, " wanted"],
    donor: Activations,
    gates: Gates,
    rotary: Rotary | None,
    pattern: Float[Tensor, "batch head pos pos"] | None,
    skip_closed: bool,
) -> Float[Tensor, "*both pos d_model"]:
    """Give what the heads of a layer write: the donor's, and what the live ones among them change."""
    block, head_gates = subject.model.blocks[layer], gates.heads[..., layer, :, :]
    at = _live_positions(head_gates.amax(-1), wanted, skip_closed)
    if not len(at):
        return donor.attention_out[layer]
    frozen = None if pattern is None else pattern[..., at, :]
    z, _ = attend(block.attention, block.norm_attention(resid), rotary, at, frozen)
    delta = head_gates[..., at, :, None] * (z - donor.heads[layer][:, at])
    return _place(donor.attention_out[layer], at, write_heads(block.attention, delta), -2)


def _mlp_out(
    subject: Subject,
    layer: int,
    resid: Float[Tensor, "*batch pos d_model"],
    wanted: Int[Tensor, " wanted"],
    donor: Activations,
    gates: Gates,
    errors: ErrorSetting,
    skip_closed: bool,
) -> Float[Tensor, "*both pos d_model"]:
    """Give what the MLP of a layer writes: the donor's, and what live blocks and live parts of refined ones change."""
    block, out = subject.model.blocks[layer], donor.mlp_out[layer]
    if errors == "zero" and layer in donor.errors:
        out = out - _dead_error(gates, layer) * donor.errors[layer]
    whole_at = _live_positions(gates.mlps[..., layer, :], wanted, skip_closed)
    if len(whole_at):
        exact = block.mlp(block.norm_mlp(resid[..., whole_at, :]))
        gate = gates.mlps[..., layer, whole_at][..., None]
        out = _place(out, whole_at, gate * (exact - donor.mlp_out[layer][:, whole_at]), -2)
    if (dictionary := subject.dictionaries.get(layer)) is None:
        return out
    refined = wanted[gates.refined[layer][wanted]]
    parts_at = _live_positions(_parts_gate(gates, layer, errors), refined, skip_closed)
    if not len(parts_at):
        return out
    x = block.norm_mlp(resid[..., parts_at, :])
    parts = _parts_delta(block.mlp, dictionary, x, parts_at, donor, gates, errors)
    return _place(out, parts_at, (1 - gates.mlps[..., layer, parts_at][..., None]) * parts, -2)


def _live_positions(
    gate: Float[Tensor, "*circuit pos"], wanted: Int[Tensor, " wanted"], skip_closed: bool
) -> Int[Tensor, " live"]:
    """Give the wanted positions where a node is live in any of the circuits (all of them under dense autograd)."""
    if gate.requires_grad and not skip_closed:
        return wanted
    used = (gate != 0).flatten(0, -2).any(0) if gate.dim() > 1 else gate != 0
    return wanted[used[wanted]]


def _place(
    base: Float[Tensor, "..."], at: Int[Tensor, " place"], delta: Float[Tensor, "..."], axis: int
) -> Float[Tensor, "..."]:
    """Add `delta` to `base` at some positions (axis `axis`, counted from the end), broadcasting leading axes."""
    if len(at) == base.shape[axis]:
        return base + delta
    shape = torch.broadcast_shapes(base.shape[:axis], delta.shape[:axis])
    out = base.expand(*shape, *base.shape[axis:])
    return out.index_add(out.dim() + axis, at, delta.expand(*shape, *delta.shape[axis:]))


def _parts_gate(gates: Gates, layer: int, errors: ErrorSetting) -> Float[Tensor, "*circuit pos"]:
    """Give a number per position that is non-zero where a part of a refined MLP is live."""
    gate = gates.features[layer].amax(-1) + gates.errors[..., layer, :] + gates.skips[..., layer, :]
    return gate + 1 if errors == "live" else gate


def _dead_error(gates: Gates, layer: int) -> Float[Tensor, "*circuit pos 1"]:
    """Give 1 where a refined block's error is outside the circuit."""
    dead = gates.refined[layer] * (1 - gates.mlps[..., layer, :]) * (1 - gates.errors[..., layer, :])
    return dead[..., None]


def _parts_delta(
    mlp: Mlp,
    dictionary: Dictionary,
    x: Float[Tensor, "*batch place d_model"],
    at: Int[Tensor, " place"],
    donor: Activations,
    gates: Gates,
    errors: ErrorSetting,
) -> Float[Tensor, "*both place d_model"]:
    """Give what the live features, error and skip of one refined MLP change against the donor's output at `at`."""
    layer = dictionary.layer
    feature_gates = gates.features[layer][..., at, :]
    used = torch.arange(dictionary.n_features, device=x.device)
    if not feature_gates.requires_grad:
        used = (feature_gates != 0).flatten(0, -2).any(0).nonzero().flatten()
    error_gate = gates.errors[..., layer, at][..., None]
    with_error = errors == "live" or error_gate.requires_grad or bool((error_gate != 0).any())
    if with_error or dictionary.k is not None:
        live = dictionary.encode(x)
        part = live[..., used]
    else:
        live = None
        part = dictionary.only(used).encode(x)
    difference = part - donor.features[layer][:, at][..., used]
    delta = (feature_gates[..., used] * difference) @ dictionary.w_dec[used]
    if live is not None and with_error:
        gate = torch.ones_like(error_gate) if errors == "live" else error_gate
        delta = delta + gate * (mlp(x) - dictionary.decode(live, x) - donor.errors[layer][:, at])
    if dictionary.w_skip is not None:
        skip_gate = gates.skips[..., layer, at][..., None]
        delta = delta + skip_gate * (x @ dictionary.w_skip - donor.skips[layer][:, at])
    return delta
