"""A prompt on which thousands of features are active, so that the rows of its graph outweigh all else."""

import dataclasses

import torch

from hagd.attribution.frozen import FrozenPrompt, freeze
from hagd.attribution.replacement import Replacement
from hagd.interventions.activations import Subject
from unit.hagd_coarsening.tiny import in_single_precision, tiny_dictionary, tiny_model

N_LAYERS = 4
TOKENS = torch.tensor([3, 11, 7, 3, 19, 2, 5, 13, 17])


def wide_prompt(n_features: int) -> FrozenPrompt:
    """Give a Llama of four layers in single precision, about half of whose features are active."""
    model = tiny_model("llama", N_LAYERS)
    dictionaries = {
        layer: dataclasses.replace(
            tiny_dictionary(model, layer, gated=False, skip=False, n_features=n_features), k=None
        )
        for layer in range(N_LAYERS)
    }
    subject = in_single_precision(Subject(model, dictionaries))
    return freeze(subject.model, Replacement(subject.dictionaries, subject.model), TOKENS, plain=1)
