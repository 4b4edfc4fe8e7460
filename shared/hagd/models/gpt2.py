"""GPT-2: learned positions, LayerNorm, one fused query-key-value matrix, a plain MLP."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hagd.models.language_model import ModelConfig
from hagd.models.weights import owned


def read_config(config: Any) -> ModelConfig:
    """Translate a `GPT2Config`."""
    return ModelConfig(
        architecture="gpt2",
        n_layers=config.n_layer,
        d_model=config.n_embd,
        n_heads=config.n_head,
        n_kv_heads=config.n_head,
        d_head=config.n_embd // config.n_head,
        d_mlp=config.n_inner if config.n_inner is not None else 4 * config.n_embd,
        vocab_size=config.vocab_size,
        n_positions=config.n_positions,
        activation=config.activation_function,
        norm="layer",
        norm_eps=float(config.layer_norm_epsilon),
        rotary_base=None,
    )


def unsupported_features(config: Any) -> list[str]:
    """Name the settings of a `GPT2Config` that this conversion does not reproduce."""
    wanted = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
    return [f"{name}={getattr(config, name)}" for name, value in wanted.items() if getattr(config, name) != value]


def read_tensors(config: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split the tensors of a `GPT2LMHeadModel` by head. GPT-2 stores matrices as (input, output)."""
    tensors = {
        "embed": owned(weights["transformer.wte.weight"]),
        "pos_embed": owned(weights["transformer.wpe.weight"]),
        "norm_final.gain": owned(weights["transformer.ln_f.weight"]),
        "norm_final.bias": owned(weights["transformer.ln_f.bias"]),
    }
    for layer in range(config.n_layers):
        source = {
            name.removeprefix(f"transformer.h.{layer}."): value
            for name, value in weights.items()
            if name.startswith(f"transformer.h.{layer}.")
        }
        tensors |= {f"blocks.{layer}.{name}": owned(value) for name, value in _read_block(config, source).items()}
    return tensors


def _read_block(config: ModelConfig, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    heads = (config.n_heads, config.d_head)
    fused = source["attn.c_attn.weight"].unflatten(1, (3, *heads)).permute(1, 2, 0, 3)
    fused_bias = source["attn.c_attn.bias"].unflatten(0, (3, *heads))
    return {
        "norm_attention.gain": source["ln_1.weight"],
        "norm_attention.bias": source["ln_1.bias"],
        **{f"attention.w_{name}": fused[index] for index, name in enumerate("qkv")},
        **{f"attention.b_{name}": fused_bias[index] for index, name in enumerate("qkv")},
        "attention.w_o": source["attn.c_proj.weight"].unflatten(0, heads),
        "attention.b_o": source["attn.c_proj.bias"],
        "norm_mlp.gain": source["ln_2.weight"],
        "norm_mlp.bias": source["ln_2.bias"],
        "mlp.w_in": source["mlp.c_fc.weight"],
        "mlp.b_in": source["mlp.c_fc.bias"],
        "mlp.w_out": source["mlp.c_proj.weight"],
        "mlp.b_out": source["mlp.c_proj.bias"],
    }
