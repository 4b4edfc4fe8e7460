"""A Llama-like model with random weights, dictionaries of which a given number of features is active, and a prompt.

Both sides read them from the same files.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from hagd.dictionaries.dictionary import Dictionary
from hagd.models.architectures import convert
from hagd.models.language_model import LanguageModel
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


@dataclass(frozen=True)
class Subject:
    """What is attributed."""

    model: LanguageModel
    dictionaries: dict[int, Dictionary]
    tokens: Tensor

    def save(self, folder: Path, module: LlamaForCausalLM) -> None:
        """Write weights for the rival."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(SHAPE))
        weights = {name: it.clone().contiguous() for name, it in module.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        parts = {
            f"{layer}.{name}": getattr(it, name).contiguous()
            for layer, it in self.dictionaries.items()
            for name in ("w_enc", "b_enc", "w_dec", "b_dec")
        }
        save_file(parts | {"tokens": self.tokens}, folder / "dictionaries.safetensors")


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
        dictionaries[layer] = _relu(layer, w_enc, b_enc, w_dec, zeros)

    run_trunk(model, tokens[None], visit)
    return Subject(model, dictionaries, tokens)


def load_subject(folder: Path) -> Subject:
    """Read what `Subject.save` wrote."""
    module = LlamaForCausalLM(LlamaConfig(**SHAPE, attn_implementation="eager")).eval()
    module.load_state_dict(load_file(folder / "model.safetensors"))
    parts = load_file(folder / "dictionaries.safetensors")
    names = ("w_enc", "b_enc", "w_dec", "b_dec")
    layers = range(SHAPE["num_hidden_layers"])
    dictionaries = {layer: _relu(layer, *(parts[f"{layer}.{name}"] for name in names)) for layer in layers}
    return Subject(convert(module), dictionaries, parts["tokens"])


def _relu(layer: int, w_enc: Tensor, b_enc: Tensor, w_dec: Tensor, b_dec: Tensor) -> Dictionary:
    return Dictionary("transcoder", layer, "relu", None, None, None, w_enc, b_enc, w_dec, b_dec, None)
