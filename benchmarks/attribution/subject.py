"""A Llama-like model with random weights, dictionaries of which a given number of features is active, and a prompt.

Both sides read them from the same files.
"""

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.attribution.stored import DICTIONARIES, OUR_MODEL, PARTS, Subject, relu
from hagd.dictionaries.dictionary import Dictionary
from hagd.models.architectures import convert
from hagd.models.storage import save_model
from hagd.models.trunk import Passage, run_trunk

SHAPE: Final[dict[str, Any]] = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "head_dim": 32,
    "intermediate_size": 688,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "initializer_range": 0.06,
}
N_FEATURES: Final = 4096


def save(subject: Subject, folder: Path, module: LlamaForCausalLM) -> None:
    """Write weights for both sides."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SHAPE))
    weights = {name: it.clone().contiguous() for name, it in module.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    save_model(subject.model, folder / OUR_MODEL, {})
    parts = {
        f"{layer}.{name}": getattr(it, name).contiguous()
        for layer, it in subject.dictionaries.items()
        for name in PARTS
    }
    save_file(parts | {"tokens": subject.tokens}, folder / DICTIONARIES)


def make_module(seed: int) -> LlamaForCausalLM:
    """Give the model as Hugging Face has it."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, attn_implementation="eager")).eval()


@torch.no_grad()
def make_subject(module: LlamaForCausalLM, n_pos: int, active: int, seed: int) -> Subject:
    """Give dictionaries of which about `active` features are active on the prompt, over all layers and positions."""
    model = convert(module)
    generator = torch.Generator().manual_seed(seed)
    # Token 0 begins the prompt; the rival would put one before it otherwise.
    tokens = torch.randint(1, model.config.vocab_size, (n_pos,), generator=generator)
    tokens[0] = 0
    width, share = model.config.d_model, active / (model.config.n_layers * (n_pos - 1) * N_FEATURES)
    dictionaries: dict[int, Dictionary] = {}

    def visit(layer: int, passage: Passage) -> None:
        w_enc = torch.randn(width, N_FEATURES, generator=generator) / width**0.5
        before = (passage.x[0, 1:] @ w_enc).flatten().sort().values
        # Halfway between two, so that rounding makes nobody active.
        bias = -before[round(len(before) * (1 - share)) :][:2].mean()
        w_dec = torch.randn(N_FEATURES, width, generator=generator) / width**0.5
        zeros = torch.zeros(width)
        b_enc = torch.full((N_FEATURES,), float(bias))
        dictionaries[layer] = relu(layer, w_enc, b_enc, w_dec, zeros)

    run_trunk(model, tokens[None], visit)
    return Subject(model, dictionaries, tokens)
