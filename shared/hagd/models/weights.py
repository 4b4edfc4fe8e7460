"""A model's weights as a flat table of named tensors, and back: the form that is digested, stored and cached.

A tied unembedding is the embedding transposed and occurs once, under `embed`.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

from hagd.errors import InvalidInputError
from hagd.models.language_model import Attention, Block, LanguageModel, Mlp, ModelConfig, Norm, RotaryScaling

Owned = Callable[[Tensor], Tensor]


def owned(weight: Tensor) -> Tensor:
    """Give a contiguous float32 copy that shares no memory with `weight`."""
    return weight.detach().to(torch.float32).clone(memory_format=torch.contiguous_format)


def is_tied(model: LanguageModel) -> bool:
    """Say whether the unembedding is the embedding's own memory."""
    return model.unembed.data_ptr() == model.embed.data_ptr()


def named_tensors(model: LanguageModel) -> dict[str, Tensor]:
    """List every stored tensor by name, e.g. `blocks.3.attention.w_q`; absent biases are left out."""
    table: dict[str, Tensor | None] = {"embed": model.embed, "pos_embed": model.pos_embed}
    for layer, block in enumerate(model.blocks):
        table |= _prefixed(f"blocks.{layer}.norm_attention", block.norm_attention)
        table |= _prefixed(f"blocks.{layer}.attention", block.attention)
        table |= _prefixed(f"blocks.{layer}.norm_mlp", block.norm_mlp)
        table |= _prefixed(f"blocks.{layer}.mlp", block.mlp)
    table |= _prefixed("norm_final", model.norm_final)
    if not is_tied(model):
        table["unembed"] = model.unembed
    return {name: tensor for name, tensor in table.items() if tensor is not None}


def _prefixed(prefix: str, part: Norm | Attention | Mlp) -> dict[str, Tensor | None]:
    values = {name: value for name, value in vars(part).items() if value is None or isinstance(value, Tensor)}
    return {f"{prefix}.{name}": value for name, value in values.items()}


def from_tensors(config: ModelConfig, tensors: Mapping[str, Tensor]) -> LanguageModel:
    """Build a model from what `named_tensors` lists; without `unembed` it is tied.

    Raises:
        InvalidInputError: a tensor is missing or has the wrong shape.
    """

    def need(name: str, *shape: int) -> Tensor:
        if name not in tensors:
            raise InvalidInputError(f"the model's weights lack the tensor {name!r}", "the file is incomplete")
        if tuple(tensors[name].shape) != shape:
            found = tuple(tensors[name].shape)
            raise InvalidInputError(f"tensor {name!r} has shape {found}, expected {shape}", "the file is damaged")
        return tensors[name]

    def maybe(name: str, *shape: int) -> Tensor | None:
        return need(name, *shape) if name in tensors else None

    def norm(name: str) -> Norm:
        gain, bias = need(f"{name}.gain", config.d_model), maybe(f"{name}.bias", config.d_model)
        return Norm(config.norm, gain, bias, config.norm_eps)

    def attention(name: str) -> Attention:
        query, key = (config.n_heads, config.d_head), (config.n_kv_heads, config.d_head)
        return Attention(
            w_q=need(f"{name}.w_q", config.n_heads, config.d_model, config.d_head),
            w_k=need(f"{name}.w_k", config.n_kv_heads, config.d_model, config.d_head),
            w_v=need(f"{name}.w_v", config.n_kv_heads, config.d_model, config.d_head),
            w_o=need(f"{name}.w_o", config.n_heads, config.d_head, config.d_model),
            b_q=maybe(f"{name}.b_q", *query),
            b_k=maybe(f"{name}.b_k", *key),
            b_v=maybe(f"{name}.b_v", *key),
            b_o=maybe(f"{name}.b_o", config.d_model),
        )

    def mlp(name: str) -> Mlp:
        return Mlp(
            activation=config.activation,
            w_gate=maybe(f"{name}.w_gate", config.d_model, config.d_mlp),
            w_in=need(f"{name}.w_in", config.d_model, config.d_mlp),
            b_in=maybe(f"{name}.b_in", config.d_mlp),
            w_out=need(f"{name}.w_out", config.d_mlp, config.d_model),
            b_out=maybe(f"{name}.b_out", config.d_model),
        )

    def block(name: str) -> Block:
        return Block(
            norm(f"{name}.norm_attention"), attention(f"{name}.attention"), norm(f"{name}.norm_mlp"), mlp(f"{name}.mlp")
        )

    embed = need("embed", config.vocab_size, config.d_model)
    unembed = maybe("unembed", config.d_model, config.vocab_size)
    learned = config.rotary_base is None
    return LanguageModel(
        config=config,
        embed=embed,
        pos_embed=need("pos_embed", config.n_positions, config.d_model) if learned else None,
        blocks=tuple(block(f"blocks.{layer}") for layer in range(config.n_layers)),
        norm_final=norm("norm_final"),
        unembed=embed.T if unembed is None else unembed,
    )


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """Give the config as plain JSON values. Defaults are left out: models older than a field keep their bytes."""
    values, defaults = asdict(config), {field.name: field.default for field in fields(config)}
    return {name: value for name, value in values.items() if value != defaults[name]}


def config_from_json(content: Mapping[str, Any]) -> ModelConfig:
    """Read what `config_to_json` gave; canonical JSON writes whole floats without a point.

    Raises:
        InvalidInputError: fields are missing, unknown or of a wrong kind.
    """
    try:
        base = content["rotary_base"]
        values: dict[str, Any] = {**content, "norm_eps": float(content["norm_eps"])}
        values["rotary_base"] = None if base is None else float(base)
        if (scaling := values.get("rotary_scaling")) is not None:
            values["rotary_scaling"] = RotaryScaling(**{name: float(value) for name, value in scaling.items()})
        return ModelConfig(**values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"not a model config: {error}", "the file is damaged or from another version"
        ) from error


def weight_digest(tensors: Mapping[str, Tensor]) -> str:
    """Give sha256 over name, shape and bytes (float32, row-major) of all tensors in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def model_digest(model: LanguageModel) -> str:
    """Give the digest that names a model's weights in manifests and verdicts."""
    return weight_digest(named_tensors(model))


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        InvalidInputError: names the first such tensor.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InvalidInputError(
                f"the checkpoint's tensor {name!r} holds NaN or infinity",
                "the file is damaged or its training diverged: use another checkpoint",
            )
