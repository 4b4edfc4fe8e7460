"""The real pretrained model that comes in a Python package. The first run on a machine converts it (half a minute)."""

import importlib.util

import pytest
import torch

from hagd.models.loading import SMOLLM2_PACKAGE, LoadedModel, load_model
from hagd.models.trunk import plain_logits

pytestmark = [
    pytest.mark.llm,
    pytest.mark.skipif(importlib.util.find_spec(SMOLLM2_PACKAGE) is None, reason="the package is not installed"),
]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("smollm2")


def test_its_weights_and_their_origin_are_pinned(loaded) -> None:
    assert loaded.digest == "30319f49c7d2f9ee6fb70f5f371781078d578d6d4317ee073860564560796297"
    assert (loaded.quantisation, loaded.bos) == ("Q4_1", False)
    assert loaded.model.config.n_kv_heads == 3 and loaded.model.config.rotary_base == 100_000


@pytest.mark.parametrize(
    ("prompt", "answer", "at_least"),
    [
        ("The capital of France is", " Paris", 0.75),
        ("The chemical symbol for gold is", " Au", 0.9),
        ("When Mary and John went to the store, John gave a drink to", " Mary", 0.8),
    ],
)
def test_it_knows_facts_and_indirect_objects(loaded, prompt, answer, at_least) -> None:
    assert loaded.tokenizer is not None
    tokens = torch.tensor([loaded.tokenizer.encode(prompt)])
    probabilities = plain_logits(loaded.model, tokens)[0, -1].softmax(-1)
    assert probabilities[loaded.tokenizer.single_token(answer)] > at_least
