"""Points of the straight path from the counterfactual to the clean prompt, at every place where something reads.

Integrated gradients of a target are taken over the residual stream that it reads: what it reads is moved from the
counterfactual run to the clean one, norms and attention live, and its gradient is averaged on the way. The stream is a
sum of what nodes write, so the edges into a target add up to how far its scalar moves.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hagd.interventions.activations import Activations, Subject
from hagd.models.attention import attend
from hagd.models.language_model import LanguageModel
from hagd_coarsening.domain.trace import Stream, Trace


@dataclass(frozen=True)
class PathPoint:
    """A place on the path, and how much of the path it stands for."""

    trace: Trace
    """With the stream of this place, and patterns and denominators as they are there."""
    weight: float


def path_of(subject: Subject, trace: Trace, steps: int) -> tuple[PathPoint, ...]:
    """Give the points of a path: `steps` of them by the rule of Gauss and Legendre, or the clean run alone for 1."""
    if steps == 1:
        return (PathPoint(trace, 1.0),)
    begin, end = (stream_of(subject.model, run) for run in (trace.counterfactual, trace.clean))
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    places = zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True)
    return tuple(PathPoint(_at(subject.model, trace, _between(begin, end, share)), weight) for share, weight in places)


def stream_of(model: LanguageModel, run: Activations) -> Stream:
    """Add up the residual stream of a run from what was written to it."""
    resid = run.embed + model.position_part(run.embed.shape[1])
    before_attention: list[Tensor] = []
    before_mlp: list[Tensor] = []
    for written, out in zip(run.attention_out, run.mlp_out, strict=True):
        before_attention.append(resid)
        attended = resid + written
        before_mlp.append(model.mlp_reads(resid, attended))
        resid = attended + out
    return Stream(tuple(before_attention), tuple(before_mlp), resid)


def _between(begin: Stream, end: Stream, share: float) -> Stream:
    def mix(a: Float[Tensor, "batch pos d_model"], b: Float[Tensor, "batch pos d_model"]) -> Tensor:
        return a + share * (b - a)

    return Stream(
        tuple(map(mix, begin.before_attention, end.before_attention)),
        tuple(map(mix, begin.before_mlp, end.before_mlp)),
        mix(begin.final, end.final),
    )


def _at(model: LanguageModel, trace: Trace, stream: Stream) -> Trace:
    """Give a trace as seen from a place on the path; node outputs and gradients stay those of the clean run."""
    n_pos = stream.final.shape[1]
    rotary, everywhere = model.rotary(n_pos), torch.arange(n_pos, device=stream.final.device)
    inputs = tuple(
        block.norm_attention(resid) for block, resid in zip(model.blocks, stream.before_attention, strict=True)
    )
    patterns = tuple(
        attend(block.attention, x, rotary, everywhere)[1] for block, x in zip(model.blocks, inputs, strict=True)
    )
    return replace(
        trace,
        clean=replace(trace.clean, patterns=patterns),
        attention_in=inputs,
        attention_scale=tuple(
            block.norm_attention.scale(resid)
            for block, resid in zip(model.blocks, stream.before_attention, strict=True)
        ),
        mlp_scale=tuple(
            block.norm_mlp.scale(resid) for block, resid in zip(model.blocks, stream.before_mlp, strict=True)
        ),
        final_scale=model.norm_final.scale(stream.final),
        stream=stream,
    )
