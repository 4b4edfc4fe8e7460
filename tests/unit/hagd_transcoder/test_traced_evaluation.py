"""What goes past dictionaries on traced prompts, beside a control whose features write in the wrong place."""

import dataclasses
from typing import Any

import pytest
import torch

from hagd.dictionaries.dictionary import Dictionary, neurons_of
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.testing import RecordingContext
from hagd_transcoder.corpus_dictionaries import run
from hagd_transcoder.domain.intervals import drawn_ratios, interval
from hagd_transcoder.domain.traced_evaluation import Traced, exchanged, trace_prompts
from unit.hagd_transcoder.test_corpus_training import CONFIG, MODEL, corpus, inputs


def trace(dictionaries: dict[int, Dictionary], prompts: int = 7) -> Traced:
    return trace_prompts(MODEL, dictionaries, corpus().windows("held-out"), prompts, RecordingContext())


def test_nothing_goes_past_neurons_and_much_past_neurons_that_write_elsewhere() -> None:
    found = trace({layer: neurons_of(block.mlp, layer) for layer, block in enumerate(MODEL.blocks)})
    assert found.together["completeness"] == pytest.approx(1, abs=1e-5)
    assert found.together["error_credit"] == pytest.approx(0, abs=1e-5)
    assert found.together["completeness_control"] < 0.9
    assert found.together["error_credit_control"] > 0.3
    for layer in found.layers.values():
        assert layer["error_influence"] == pytest.approx(0, abs=1e-5)
        assert layer["error_influence_control"] > 0.1


def test_the_stage_reports_a_trained_dictionary_as_better_than_its_control() -> None:
    config = {**CONFIG, "start": "mlp", "tokens": 6000, "traced": 20}
    document = run(inputs(), config, RecordingContext())["dictionaries"]
    found: dict[str, Any] = document.content["metrics"]
    assert found["completeness"] > found["completeness_control"] + 0.05
    assert found["error_credit"] < found["error_credit_control"] - 0.05
    low, high = found["error_credit_ci95"]
    assert low < found["error_credit"] < high < found["error_credit_control"]
    by_layer = [layer["error_credit"] for layer in found["layers"]]
    assert found["error_credit"] == pytest.approx(sum(by_layer) / 3)
    again = trace(dictionaries_from_document(document), 20)
    assert again.together["completeness"] == found["completeness"]


def test_nothing_is_traced_where_nothing_shall_be() -> None:
    found = run(inputs(), {**CONFIG, "traced": 0}, RecordingContext())["dictionaries"].content["metrics"]
    assert "completeness" not in found
    assert "error_credit" not in found["layers"][0]


def test_exchanged_decoders_keep_their_lengths_and_what_fires_and_nobody_keeps_its_own() -> None:
    given = dataclasses.replace(neurons_of(MODEL.blocks[1].mlp, 1), k=3)
    control = exchanged({1: given}, seed=4)[1]
    torch.testing.assert_close(control.w_dec.norm(dim=1), given.w_dec.norm(dim=1))
    x = torch.randn(5, given.w_enc.shape[0], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(control.encode(x), given.encode(x))
    same = torch.nn.functional.cosine_similarity(control.w_dec, given.w_dec)
    assert float(same.max()) < 0.999
    cosine = torch.nn.functional.normalize(control.w_dec) @ torch.nn.functional.normalize(given.w_dec).T
    assert sorted(cosine.argmax(1).tolist()) == list(range(given.n_features))


def test_intervals_draw_documents_and_hold_the_ratio() -> None:
    above, below = torch.tensor([1.0, 2, 3, 4, 10]), torch.tensor([2.0, 2, 4, 4, 20])
    one = drawn_ratios(above, below, torch.zeros(5, dtype=torch.int64), seed=1)
    assert interval(one) == pytest.approx([20 / 32, 20 / 32])
    low, high = interval(drawn_ratios(above, below, torch.tensor([3, 3, 5, 5, 8]), seed=1))
    # The extremes are draws of one document alone.
    assert (low, high) == pytest.approx((10 / 20, 7 / 8))
