"""Tiny weights to write in the layouts of other tools, and what those tools compute from them, in numpy alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats.found import Found
from hagd.dictionaries.formats.registry import read_folder

D_MODEL, D_FEATURE, TOKENS = 5, 11, 23


@dataclass(frozen=True)
class Weights:
    """A transcoder as `relu(x w_enc + b_enc) w_dec + b_dec + x w_skip` has it."""

    w_enc: np.ndarray
    b_enc: np.ndarray
    w_dec: np.ndarray
    b_dec: np.ndarray
    w_skip: np.ndarray
    threshold: np.ndarray


def weights(seed: int, d_model: int = D_MODEL) -> Weights:
    draw = np.random.default_rng(seed)

    def tensor(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32)

    # Decoders of very different norms, so that it shows what TopK ranks by.
    w_dec = tensor(D_FEATURE, d_model) * np.exp(2 * tensor(D_FEATURE, 1))
    return Weights(
        tensor(d_model, D_FEATURE),
        tensor(D_FEATURE),
        w_dec,
        tensor(d_model),
        tensor(d_model, d_model),
        np.abs(tensor(D_FEATURE)),
    )


def inputs(d_model: int = D_MODEL, seed: int = 99) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(TOKENS, d_model)).astype(np.float32)


def relu(pre: np.ndarray) -> np.ndarray:
    return np.where(pre > 0, pre, 0)


def largest(values: np.ndarray, k: int, scores: np.ndarray | None = None) -> np.ndarray:
    """Keep the k entries of each row that come first by `scores`, or by themselves."""
    order = np.argsort(-(values if scores is None else scores), axis=-1, kind="stable")[:, :k]
    kept = np.zeros_like(values)
    np.put_along_axis(kept, order, np.take_along_axis(values, order, -1), -1)
    return kept


def pre(w: Weights, x: np.ndarray) -> np.ndarray:
    return x @ w.w_enc + w.b_enc


def decoded(w: Weights, features: np.ndarray) -> np.ndarray:
    return features @ w.w_dec + w.b_dec


def rebuilt(dictionary: Dictionary, x: np.ndarray) -> np.ndarray:
    given = torch.from_numpy(x)
    return dictionary.decode(dictionary.encode(given), given).numpy()


def by_layer(found: Found) -> Mapping[int, Dictionary]:
    assert isinstance(found.content, Mapping)
    return found.content


def read_one(folder: Path) -> Dictionary:
    (dictionary,) = by_layer(read_folder(folder)).values()
    return dictionary


def save(path: Path, **tensors: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
