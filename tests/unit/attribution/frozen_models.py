"""Tiny frozen prompts of every architecture and kind of dictionary, and a plain simulation of what is frozen."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hagd.attribution.frozen import FrozenPrompt, freeze
from hagd.attribution.replacement import Replacement
from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.dictionary import Dictionary, neurons_of
from hagd.models.language_model import ACTIVATIONS, LanguageModel, Norm
from unit.hagd_coarsening.tiny import tiny_dictionary, tiny_model

TOKENS = torch.tensor([3, 11, 7, 3, 19, 2])
N_LAYERS = 3
ARCHITECTURES = ("gpt2", "llama", "gpt_neox")
Source = tuple[str, int, int, int]
"""Kind, layer, position, id."""


def mixed(model: LanguageModel) -> Mapping[int, Dictionary]:
    """Give layers with a gate and a skip path, without any dictionary, and plain with a skip path."""
    return {
        0: tiny_dictionary(model, 0, gated=True, skip=True),
        2: tiny_dictionary(model, 2, gated=False, skip=True, n_features=13),
    }


def plain(model: LanguageModel) -> Mapping[int, Dictionary]:
    return {layer: tiny_dictionary(model, layer, gated=False, skip=False) for layer in range(N_LAYERS)}


def gated(model: LanguageModel) -> Mapping[int, Dictionary]:
    return {layer: tiny_dictionary(model, layer, gated=True, skip=layer == 1) for layer in range(N_LAYERS)}


def neurons(model: LanguageModel) -> Mapping[int, Dictionary]:
    return {layer: neurons_of(block.mlp, layer) for layer, block in enumerate(model.blocks)}


def cross_layer(model: LanguageModel) -> CrossLayerTranscoder:
    generator = torch.Generator().manual_seed(5)
    width, n_features = model.config.d_model, 12

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.4

    layers = range(N_LAYERS)
    return CrossLayerTranscoder(
        "relu",
        tuple(draw(width, n_features) for _ in layers),
        tuple(draw(n_features) for _ in layers),
        tuple(draw(N_LAYERS - layer, n_features, width) for layer in layers),
        tuple(draw(width) for _ in layers),
        tuple(draw(width, width) for _ in layers),
        tuple(draw(n_features).abs() * 0.2 for _ in layers),
    )


DICTIONARIES: dict[str, Callable[[LanguageModel], Mapping[int, Dictionary] | CrossLayerTranscoder]] = {
    "mixed": mixed,
    "plain": plain,
    "gated": gated,
    "neurons": neurons,
    "cross-layer": cross_layer,
}


def frozen_prompt(architecture: str, kind: str, tokens: Tensor = TOKENS, n_layers: int = N_LAYERS) -> FrozenPrompt:
    model = tiny_model(architecture, n_layers)
    return freeze(model, Replacement(DICTIONARIES[kind](model), model), tokens)


def single(norm: Norm, x: Tensor, scale: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    out = centred * scale * norm.gain
    return out if norm.bias is None else out + norm.bias


class Simulation:
    """The prompt run forward, one sum after the other, with everything held constant but what sources write."""

    def __init__(self, frozen: FrozenPrompt) -> None:
        self._frozen = frozen

    def residuals(self, scale: Mapping[Source, float]) -> tuple[list[Tensor], Tensor]:
        """Give what each MLP reads, and the last residual, when the writes of some sources are multiplied."""
        frozen, model = self._frozen, self._frozen.model
        resid = torch.zeros_like(frozen.embed) + model.position_part(frozen.n_pos)
        for pos in range(frozen.n_pos):
            resid[pos] += scale.get(("token", -1, pos, 0), 1.0) * frozen.embed[pos]
        heard = []
        for number, (block, layer) in enumerate(zip(model.blocks, frozen.layers, strict=True)):
            x = single(block.norm_attention, resid, layer.attention_scale)
            attended = resid.clone()
            group = model.config.group_size
            for head in range(model.config.n_heads):
                values = x @ block.attention.w_v[head // group]
                if block.attention.b_v is not None:
                    values = values + block.attention.b_v[head // group]
                attended += layer.pattern[head] @ values @ block.attention.w_o[head]
            if block.attention.b_o is not None:
                attended += block.attention.b_o
            heard.append(resid if model.config.parallel_residual else attended)
            resid = attended + self._written(number, heard[-1], scale)
        return heard, resid

    def _written(self, number: int, heard: Tensor, scale: Mapping[Source, float]) -> Tensor:
        frozen = self._frozen
        layer, replacement = frozen.layers[number], frozen.replacement
        out = torch.stack([scale.get(("error", number, pos, 0), 1.0) * layer.error[pos] for pos in range(frozen.n_pos)])
        for source, w_dec in replacement.writers(number).items():
            active = frozen.layers[source].features
            for pos, name, value in zip(
                active.positions.tolist(), active.ids.tolist(), active.values.tolist(), strict=True
            ):
                out[pos] += scale.get(("feature", source, pos, name), 1.0) * value * w_dec[name]
        bias, skip = replacement.bias(number), replacement.skip(number)
        out = out if bias is None else out + bias
        if skip is not None:
            out = out + single(frozen.model.blocks[number].norm_mlp, heard, layer.mlp_scale) @ skip
        return out

    def scalars(self, scale: Mapping[Source, float], directions: Tensor) -> Tensor:
        """Give the scalar of every active feature by (layer, position, id), then of every direction at the end."""
        frozen, model = self._frozen, self._frozen.model
        heard, final = self.residuals(scale)
        found = []
        for number, layer in enumerate(frozen.layers):
            if not len(layer.features):
                continue
            x = single(model.blocks[number].norm_mlp, heard[number], layer.mlp_scale)
            encoder = frozen.replacement.encoder(number)
            up = x @ encoder.w_enc + encoder.b_enc
            if encoder.gate is not None:
                weights, bias, activation = encoder.gate
                inner = layer.mlp_in @ weights
                up = up * ACTIVATIONS[activation](inner if bias is None else inner + bias)
            found.append(up[layer.features.positions, layer.features.ids])
        end = single(model.norm_final, final, frozen.final_scale)[-1]
        return torch.cat([*found, directions @ end])


class CutSimulation(Simulation):
    """The same with the outputs of heads among the sources: each head keeps what it gave, times its factor."""

    def __init__(self, frozen: FrozenPrompt) -> None:
        super().__init__(frozen)
        self._given = self._run({}, clamped=False)

    def scalars(self, scale: Mapping[Source, float], directions: Tensor) -> Tensor:
        """Give the scalars of features, of heads (what each would give, along what it gave), and of directions."""
        moved = self._run(scale, clamped=True)
        heads = torch.cat(
            [
                (now * was).sum(-1).flatten() / was.norm(dim=-1).flatten().clamp_min(1e-30)
                for now, was in zip(moved, self._given, strict=True)
            ]
        )
        found = super().scalars(scale, directions)
        return torch.cat([found[: -len(directions)], heads, found[-len(directions) :]])

    def residuals(self, scale: Mapping[Source, float]) -> tuple[list[Tensor], Tensor]:
        self._run(scale, clamped=True)
        return self._heard, self._final

    def _run(self, scale: Mapping[Source, float], *, clamped: bool) -> list[Tensor]:
        """Give what each head would write, by layer: `head pos d_model`."""
        frozen, model = self._frozen, self._frozen.model
        resid = torch.zeros_like(frozen.embed) + model.position_part(frozen.n_pos)
        for pos in range(frozen.n_pos):
            resid[pos] += scale.get(("token", -1, pos, 0), 1.0) * frozen.embed[pos]
        heard: list[Tensor] = []
        written: list[Tensor] = []
        for number, (block, layer) in enumerate(zip(model.blocks, frozen.layers, strict=True)):
            x = single(block.norm_attention, resid, layer.attention_scale)
            outputs = []
            for head in range(model.config.n_heads):
                values = x @ block.attention.w_v[head // model.config.group_size]
                if block.attention.b_v is not None:
                    values = values + block.attention.b_v[head // model.config.group_size]
                outputs.append(layer.pattern[head] @ values @ block.attention.w_o[head])
            written.append(torch.stack(outputs))
            given = self._given[number] if clamped else written[-1]
            factor = torch.tensor(
                [
                    [scale.get(("head", number, pos, head), 1.0) for pos in range(frozen.n_pos)]
                    for head in range(model.config.n_heads)
                ],
                dtype=given.dtype,
            )
            attended = resid + (factor[..., None] * given).sum(0)
            if block.attention.b_o is not None:
                attended += block.attention.b_o
            heard.append(resid if model.config.parallel_residual else attended)
            resid = attended + self._written(number, heard[-1], scale)
        self._heard, self._final = heard, resid
        return written
