"""Convert Hugging Face causal language models to `LanguageModel`, by architecture, and prove the conversion.

A new architecture is one file with `read_config`, `unsupported_features` and `read_tensors`, and a line in
`ARCHITECTURES`. What a conversion does not reproduce is refused by name, and every converted model must give
the original's logits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hagd.errors import InvalidInputError, UnsupportedArchitectureError
from hagd.models import gpt2, gpt_neox, llama
from hagd.models.language_model import ACTIVATIONS, LanguageModel, ModelConfig
from hagd.models.trunk import plain_logits
from hagd.models.weights import check_finite, from_tensors, owned

ACTIVATION_ALIASES = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "swish": "silu"}
"""Other names by which configs call the same functions."""


@dataclass(frozen=True)
class Architecture:
    """How one `model_type` is read."""

    read_config: Callable[[Any], ModelConfig]
    unsupported_features: Callable[[Any], list[str]]
    read_tensors: Callable[[ModelConfig, Mapping[str, Tensor]], dict[str, Tensor]]


ARCHITECTURES: Mapping[str, Architecture] = {
    "gpt2": Architecture(gpt2.read_config, gpt2.unsupported_features, gpt2.read_tensors),
    "gpt_neox": Architecture(gpt_neox.read_config, gpt_neox.unsupported_features, gpt_neox.read_tensors),
    "llama": Architecture(llama.read_config, llama.unsupported_features, llama.read_tensors),
}


@runtime_checkable
class CausalModule(Protocol):
    """What is asked of a Hugging Face causal language model."""

    config: Any

    def state_dict(self) -> Mapping[str, Any]: ...
    def get_input_embeddings(self) -> Any: ...
    def get_output_embeddings(self) -> Any: ...
    def __call__(self, input_ids: Any, /) -> Any: ...


def find_architecture(model_type: str) -> Architecture:
    """Look up an architecture.

    Raises:
        UnsupportedArchitectureError: names it and lists the supported ones.
    """
    if model_type not in ARCHITECTURES:
        raise UnsupportedArchitectureError(
            f"the architecture {model_type!r} is not supported",
            f"use a model of one of: {', '.join(sorted(ARCHITECTURES))}",
        )
    return ARCHITECTURES[model_type]


def read_config(config: Any) -> ModelConfig:
    """Translate a Hugging Face config.

    Raises:
        UnsupportedArchitectureError: the architecture, or a setting of it, is not supported; each is named.
    """
    architecture = find_architecture(str(config.model_type))
    refused = architecture.unsupported_features(config)
    if refused:
        raise UnsupportedArchitectureError(
            f"this {config.model_type} model uses what is not supported: {', '.join(refused)}",
            "use a model without it, or add it to the conversion",
        )
    ours = architecture.read_config(config)
    activation = ACTIVATION_ALIASES.get(ours.activation, ours.activation)
    if activation not in ACTIVATIONS:
        raise UnsupportedArchitectureError(
            f"this {config.model_type} model uses the activation {ours.activation!r}, which is not supported",
            f"use a model with one of: {', '.join(sorted([*ACTIVATIONS, *ACTIVATION_ALIASES]))}",
        )
    return replace(ours, activation=activation)


def convert(module: CausalModule, *, tolerance: float = 1e-4) -> LanguageModel:
    """Convert a Hugging Face language model to plain float32 weights, which it does not share.

    The module should be in evaluation mode; dropout would break the comparison of logits.

    Raises:
        UnsupportedArchitectureError: the architecture, or a setting of it, is not supported.
        InvalidInputError: weights are missing, not finite, or give other logits than the original
            (largest difference over largest magnitude above `tolerance`).
    """
    config = read_config(module.config)
    architecture = find_architecture(config.architecture)
    try:
        tensors = architecture.read_tensors(config, module.state_dict())
    except KeyError as error:
        raise InvalidInputError(f"the checkpoint lacks the tensor {error}", "the file is incomplete") from error
    # Releases of transformers differ in what they call the unembedding of GPT-NeoX.
    head, embed = module.get_output_embeddings().weight, module.get_input_embeddings().weight
    if head.data_ptr() != embed.data_ptr():
        tensors["unembed"] = owned(head.T)
    check_finite(tensors)
    model = from_tensors(config, tensors)
    difference = logit_difference(model, module)
    if not difference <= tolerance:
        raise InvalidInputError(
            f"the converted {config.architecture} model gives other logits than the original "
            f"(relative difference {difference:.1e}, allowed {tolerance:.0e})",
            "put the module in evaluation mode, or report the model: it uses something that is not converted",
        )
    return model


@torch.no_grad()
def logit_difference(model: LanguageModel, module: CausalModule, *, n_prompts: int = 3, seed: int = 0) -> float:
    """Give the largest logit difference on random prompts, over the largest logit of the original."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n_prompts, min(11, model.config.n_positions))
    tokens = torch.randint(model.config.vocab_size, shape, generator=generator).to(model.device)
    expected = module(tokens).logits.float()
    return ((plain_logits(model, tokens) - expected).abs().max() / expected.abs().max()).item()
