"""What an encoder reads, and how it is made to read the MLP's own input instead.

With `x = g * u + b` (gain and bias of the norm before the MLP), an encoder `w` of the normalised residual `u` is

    u w + c  =  x (w / g) + c - (b / g) w

and its skip path likewise. A residual before the norm is `u` times a scale of its own at every token, so no weights
that read `u` or `x` do the same: such files are refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats.found import Found, InputSpace
from hagd.errors import InvalidInputError
from hagd.models.language_model import LanguageModel, Norm

HOOKS_IN: Mapping[str, InputSpace] = {
    "mlp.hook_in": "mlp-input",
    "ln2.hook_normalized": "hook-normalized",
    "hook_resid_mid": "residual",
    "hook_mlp_in": "residual",
}
"""Names by which TransformerLens knows what an MLP's encoder may read."""
HOOKS_OUT = ("hook_mlp_out", "mlp.hook_out")
"""Names of what an MLP writes."""
_BLOCK = re.compile(r"^blocks\.(\d+)\.")


def space_of(hook_in: str, hook_out: str) -> InputSpace:
    """Give what two hook points, with or without `blocks.N.` before them, say about a transcoder.

    Raises:
        InvalidInputError: they are not the two sides of an MLP.
    """
    name_in, name_out = _BLOCK.sub("", hook_in), _BLOCK.sub("", hook_out)
    if name_in == name_out:
        raise InvalidInputError(
            f"the file reads and writes {hook_in!r}: it is an autoencoder", "give a transcoder of MLPs"
        )
    if name_out not in HOOKS_OUT:
        raise InvalidInputError(
            f"the file reconstructs {hook_out!r}, expected what an MLP writes: {', '.join(HOOKS_OUT)}",
            "give a transcoder of MLPs",
        )
    if name_in not in HOOKS_IN:
        raise InvalidInputError(
            f"the file reads {hook_in!r}, expected one of {', '.join(HOOKS_IN)}", "give a transcoder of MLPs"
        )
    return HOOKS_IN[name_in]


def layer_of(hook: str) -> int | None:
    """Read the layer off a hook point such as `blocks.3.hook_mlp_out`."""
    match = _BLOCK.match(hook)
    return int(match.group(1)) if match else None


def meanings(space: InputSpace, norm: Norm) -> tuple[InputSpace, ...]:
    """Give what a declared space may be, as seen from a norm: two where `hook-normalized` leaves it open."""
    if space != "hook-normalized":
        return (space,)
    return ("mlp-input", "normalised") if norm.kind == "layer" else ("normalised",)


def resolve(space: InputSpace, norm: Norm) -> InputSpace:
    """Decide what a declared space is.

    Raises:
        InvalidInputError: it is `hook-normalized` of a LayerNorm, which only a measurement or a person can tell.
    """
    meant = meanings(space, norm)
    if len(meant) != 1:
        raise InvalidInputError(
            "the file reads ln2.hook_normalized of a LayerNorm, which TransformerLens gave with gain and bias before "
            "its release 3.0 and gives without them since; the file does not say which",
            "convert it first: with `hagd transcoder convert`, let --probe-text FILE decide, or say --space mlp-input "
            "(before 3.0) or --space normalised",
        )
    return meant[0]


def fold(found: Found, model: LanguageModel) -> Found:
    """Give the same transcoders with encoders that read the MLP's own input.

    Raises:
        InvalidInputError: they read the residual before a norm, it is open what they read, or a gain is 0.
    """
    norms = [block.norm_mlp for block in model.blocks]
    if isinstance(found.content, CrossLayerTranscoder):
        content = _fold_cross_layer(found.content, found.space, norms)
    else:
        content = {layer: fold_one(it, found.space, norms[layer]) for layer, it in found.content.items()}
    return replace(found, content=content, space="mlp-input")


def fold_one(dictionary: Dictionary, space: InputSpace, norm: Norm) -> Dictionary:
    """Give a dictionary that gives on the MLP's own input what this one gives on `space`.

    Raises:
        InvalidInputError: `space` is the residual or leaves it open, or a gain is 0.
    """
    if resolve(space, norm) == "mlp-input":
        return dictionary
    undo = _Undo.of(space, norm, dictionary.layer)
    w_enc, b_enc = undo(dictionary.w_enc, dictionary.b_enc)
    folded = replace(dictionary, w_enc=w_enc, b_enc=b_enc)
    if dictionary.w_gate is not None:
        b_gate = torch.zeros_like(b_enc) if dictionary.b_gate is None else dictionary.b_gate
        w_gate, b_gate = undo(dictionary.w_gate, b_gate)
        folded = replace(folded, w_gate=w_gate, b_gate=b_gate)
    if dictionary.w_skip is not None:
        w_skip, b_dec = undo(dictionary.w_skip, dictionary.b_dec)
        folded = replace(folded, w_skip=w_skip, b_dec=b_dec)
    return folded


def _fold_cross_layer(
    transcoder: CrossLayerTranscoder, space: InputSpace, norms: Sequence[Norm]
) -> CrossLayerTranscoder:
    if all(resolve(space, norm) == "mlp-input" for norm in norms):
        return transcoder
    undo = [_Undo.of(space, norm, layer) for layer, norm in enumerate(norms)]
    encoders = [it(w, b) for it, w, b in zip(undo, transcoder.w_enc, transcoder.b_enc, strict=True)]
    folded = replace(transcoder, w_enc=tuple(w for w, _ in encoders), b_enc=tuple(b for _, b in encoders))
    if transcoder.w_skip is None:
        return folded
    skips = [it(w, b) for it, w, b in zip(undo, transcoder.w_skip, transcoder.b_dec, strict=True)]
    return replace(folded, w_skip=tuple(w for w, _ in skips), b_dec=tuple(b for _, b in skips))


class _Undo:
    """Turn affine maps of the normalised residual into maps of the MLP's input, in float64."""

    def __init__(self, gain: Float[Tensor, " d_model"], shift: Float[Tensor, " d_model"]) -> None:
        self._gain, self._shift = gain, shift

    @staticmethod
    def of(space: InputSpace, norm: Norm, layer: int) -> "_Undo":
        if space == "residual":
            raise InvalidInputError(
                f"layer {layer} reads the residual before the norm, which divides it by the length of each token's "
                "residual: no weights that read the MLP's input can undo that",
                "use transcoders of the normalised residual; if this one reads that after all, say so with --space of "
                "`hagd transcoder convert`",
            )
        if bool((norm.gain == 0).any()):
            raise InvalidInputError(
                f"the norm before MLP {layer} has a gain of 0, so its input lacks a direction that the file reads",
                "use transcoders that were trained on the MLP's own input (mlp.hook_in)",
            )
        gain = norm.gain.double()
        return _Undo(gain, torch.zeros_like(gain) if norm.bias is None else norm.bias.double() / gain)

    def __call__(
        self, weight: Float[Tensor, "d_model d_out"], bias: Float[Tensor, " d_out"]
    ) -> tuple[Float[Tensor, "d_model d_out"], Float[Tensor, " d_out"]]:
        exact = weight.double()
        return (exact / self._gain[:, None]).to(weight.dtype), (bias.double() - self._shift @ exact).to(bias.dtype)
