"""Tiny random Hugging Face models whose sizes are distinct primes where the architecture allows, in float32.

Weights are large enough for attention and norms to be far from uniform, so that an error shows.
"""

from typing import TypeVar

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

Model = TypeVar("Model", bound=torch.nn.Module)
VOCAB, N_LAYERS = 23, 3


def tiny_gpt2(seed: int = 0, *, tied: bool = True) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=13,
        n_embd=35,
        n_layer=N_LAYERS,
        n_head=5,
        n_inner=17,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    return _randomised(GPT2LMHeadModel(config), seed)


def tiny_llama(
    seed: int = 0,
    *,
    tied: bool = False,
    bias: bool = False,
    n_heads: int = 6,
    n_kv_heads: int = 2,
    scaled: bool = False,
) -> LlamaForCausalLM:
    """Give a Llama; `scaled` as from 3.1 on, so that one rotation stays, one is slowed in part, three wholly."""
    scaling = {"factor": 8.0, "low_freq_factor": 0.5, "high_freq_factor": 3.0, "original_max_position_embeddings": 23}
    rope = {"rope_type": "llama3", **scaling} if scaled else {"rope_type": "default"}
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=42,
        head_dim=10,
        intermediate_size=19,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        max_position_embeddings=29,
        attention_bias=bias,
        rms_norm_eps=1e-3,
        rope_parameters={**rope, "rope_theta": 777.0},
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    return _randomised(LlamaForCausalLM(config), seed)


def tiny_neox(
    seed: int = 0, *, parallel: bool = True, rotary_share: float = 0.25, tied: bool = False, bias: bool = True
) -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=80,
        intermediate_size=19,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=5,
        max_position_embeddings=29,
        attention_bias=bias,
        layer_norm_eps=1e-3,
        use_parallel_residual=parallel,
        rope_parameters={"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": rotary_share},
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    return _randomised(GPTNeoXForCausalLM(config), seed)


def _randomised(module: Model, seed: int) -> Model:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            gain = "norm" in name or "ln_" in name
            weight.copy_(1 + 0.3 * noise if gain and name.endswith("weight") else 0.35 * noise)
    return module.eval()


def random_tokens(n_prompts: int, n_pos: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(VOCAB, (n_prompts, n_pos), generator=torch.Generator().manual_seed(seed))
