"""One run of a model, layer by layer, that shows every MLP what it reads and lets somebody else answer for it.

Nothing is kept: each layer is seen while the run passes, so that a model's memory does not grow with its depth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.models.attention import attend, project_heads
from hagd.models.language_model import LanguageModel


@dataclass(frozen=True)
class Passage:
    """What one MLP does in a run."""

    heard: Float[Tensor, "batch pos d_model"]
    """The residual before the norm."""
    attended: Float[Tensor, "batch pos d_model"]
    """The residual that what it writes is added to, which makes the residual behind the block."""
    x: Float[Tensor, "batch pos d_model"]
    """What the MLP reads: the same behind the norm."""
    out: Float[Tensor, "batch pos d_model"]
    """What it writes."""


Visit = Callable[[int, Passage], Tensor | None]
"""Shown the layer and its passage; a tensor goes on in place of what the MLP writes."""


def run_trunk(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    visit: Visit,
    *,
    upto: int | None = None,
    half: bool = False,
) -> Float[Tensor, "batch pos d_model"]:
    """Run the model on tokens; give the last residual, before the final norm. What `visit` gives may bear a gradient.

    Args:
        model: its weights.
        tokens: what it reads.
        visit: shown every layer in turn.
        upto: the last layer that is run; all when None.
        half: whether products are taken in bfloat16 (sums and the residual stay float32), which is several times
            faster where the processor has instructions for it.
    """
    n_pos = tokens.shape[1]
    rotary, everywhere = model.rotary(n_pos), torch.arange(n_pos, device=tokens.device)
    resid = model.embed[tokens] + model.position_part(n_pos)
    for layer, block in enumerate(model.blocks[: None if upto is None else upto + 1]):
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=half):
            heads, _ = attend(block.attention, block.norm_attention(resid), rotary, everywhere)
            attended = resid + project_heads(block.attention, heads).to(resid.dtype)
            heard = model.mlp_reads(resid, attended)
            x = block.norm_mlp(heard)
            out = block.mlp(x).to(resid.dtype)
        instead = visit(layer, Passage(heard, attended, x, out))
        resid = attended + (out if instead is None else instead)
    return resid


def plain_logits(model: LanguageModel, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
    """Run the model and give its logits everywhere; those at position p predict the token at p + 1."""
    return model.logits(run_trunk(model, tokens, _look_on))


def _look_on(layer: int, passage: Passage) -> None:
    """Let every MLP answer for itself."""
