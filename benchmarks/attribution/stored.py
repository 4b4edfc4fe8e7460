"""A subject as it lies in files, read without the library that made the model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors.torch import load_file
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd.models.language_model import LanguageModel
from hagd.models.storage import read_model

OUR_MODEL: Final = "hagd.safetensors"
DICTIONARIES: Final = "dictionaries.safetensors"
PARTS: Final = ("w_enc", "b_enc", "w_dec", "b_dec")


@dataclass(frozen=True)
class Subject:
    """What is attributed."""

    model: LanguageModel
    dictionaries: dict[int, Dictionary]
    tokens: Tensor


def load_subject(folder: Path) -> Subject:
    """Read what `subject.save` wrote."""
    model, _ = read_model(folder / OUR_MODEL)
    parts = load_file(folder / DICTIONARIES)
    layers = range(model.config.n_layers)
    dictionaries = {layer: relu(layer, *(parts[f"{layer}.{name}"] for name in PARTS)) for layer in layers}
    return Subject(model, dictionaries, parts["tokens"])


def relu(layer: int, w_enc: Tensor, b_enc: Tensor, w_dec: Tensor, b_dec: Tensor) -> Dictionary:
    """Give a plain dictionary that keeps all that is positive."""
    return Dictionary("transcoder", layer, "relu", None, None, None, w_enc, b_enc, w_dec, b_dec, None)
