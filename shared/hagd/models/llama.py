"""Llama: rotary positions, RMSNorm, key/value heads shared by groups of query heads, SwiGLU."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hagd.models.language_model import ModelConfig, RotaryScaling
from hagd.models.weights import owned


def read_config(config: Any) -> ModelConfig:
    """Translate a `LlamaConfig`."""
    return ModelConfig(
        architecture="llama",
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        d_head=config.head_dim,
        d_mlp=config.intermediate_size,
        vocab_size=config.vocab_size,
        n_positions=config.max_position_embeddings,
        activation=config.hidden_act,
        norm="rms",
        norm_eps=float(config.rms_norm_eps),
        rotary_base=float(config.rope_parameters["rope_theta"]),
        rotary_scaling=_scaling(config.rope_parameters),
    )


def unsupported_features(config: Any) -> list[str]:
    """Name the settings of a `LlamaConfig` that this conversion does not reproduce."""
    rope = dict(config.rope_parameters or {})
    refused: list[str] = []
    if rope.get("rope_type", "default") not in ("default", "llama3"):
        refused.append(f"rope_type={rope['rope_type']} (scaled rotary positions)")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        refused.append(f"partial_rotary_factor={rope['partial_rotary_factor']}")
    if getattr(config, "sliding_window", None) is not None:
        refused.append(f"sliding_window={config.sliding_window}")
    if config.mlp_bias:
        refused.append("mlp_bias=True")
    return refused


def _scaling(rope: Mapping[str, Any]) -> RotaryScaling | None:
    if rope.get("rope_type", "default") == "default":
        return None
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return RotaryScaling(*(float(rope[name]) for name in names))


def read_tensors(config: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split the tensors of a `LlamaForCausalLM` by head. Llama stores matrices as (output, input)."""
    tensors = {
        "embed": owned(weights["model.embed_tokens.weight"]),
        "norm_final.gain": owned(weights["model.norm.weight"]),
    }
    for layer in range(config.n_layers):
        prefix = f"model.layers.{layer}."
        source = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        tensors |= {f"blocks.{layer}.{name}": owned(value) for name, value in _read_block(config, source).items()}
    return tensors


def _read_block(config: ModelConfig, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    d_head = config.d_head
    block = {
        "norm_attention.gain": source["input_layernorm.weight"],
        "attention.w_o": source["self_attn.o_proj.weight"].T.unflatten(0, (-1, d_head)),
        "norm_mlp.gain": source["post_attention_layernorm.weight"],
        "mlp.w_gate": source["mlp.gate_proj.weight"].T,
        "mlp.w_in": source["mlp.up_proj.weight"].T,
        "mlp.w_out": source["mlp.down_proj.weight"].T,
    }
    for name in "qkv":
        block[f"attention.w_{name}"] = source[f"self_attn.{name}_proj.weight"].unflatten(0, (-1, d_head)).mT
        if (bias := source.get(f"self_attn.{name}_proj.bias")) is not None:
            block[f"attention.b_{name}"] = bias.unflatten(0, (-1, d_head))
    if (bias := source.get("self_attn.o_proj.bias")) is not None:
        block["attention.b_o"] = bias
    return block
