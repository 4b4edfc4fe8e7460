"""The windows that a feature is shown by are those that going through all of them finds."""

from typing import Any

import pytest
import torch

from hagd.dictionaries.storage import dictionaries_from_document
from hagd.models.trunk import run_trunk
from hagd.testing import RecordingContext
from hagd_transcoder.corpus_dictionaries import run
from hagd_transcoder.domain.corpus_evaluation import density_histogram
from hagd_transcoder.domain.examples import ExamplePlan, TopWindows
from unit.hagd_transcoder.test_corpus_training import CONFIG, MODEL, corpus, inputs

SHOWN: dict[str, Any] = {**CONFIG, "traced": 0, "shown_features": 4, "shown_windows": 3}


def test_features_are_shown_by_the_windows_on_which_they_are_strongest() -> None:
    document = run(inputs(), SHOWN, RecordingContext())["dictionaries"]
    held_out = corpus().windows("held-out")
    for layer, dictionary in dictionaries_from_document(document).items():
        shown = document.content["metrics"]["layers"][layer]["examples"]
        assert len(shown) == 4
        for feature in shown:
            found: list[tuple[float, int, list[int]]] = []
            for number in range(len(held_out)):
                batch, seen = held_out.batch([number]), list[torch.Tensor]()
                run_trunk(MODEL, batch.tokens, lambda *it, seen=seen: seen.append(it[1].x[0]), upto=layer)
                values = dictionary.encode(seen[layer])[1:, feature["feature"]]
                document_of = int(held_out.documents()[number])
                peak = 1 + int(values.abs().argmax())
                around = batch.tokens[0, max(0, peak - 12) : peak + 9].tolist()
                found.append((float(values.abs().max()), document_of, around))
            best = sorted((it for it in found if it[0] > 0), key=lambda it: -it[0])[:3]
            assert len(feature["windows"]) == len(best)
            for window, (strength, document_of, tokens) in zip(feature["windows"], best, strict=True):
                assert abs(window["values"][window["strongest"]]) == pytest.approx(strength, rel=1e-4)
                assert (window["document"], window["tokens"]) == (document_of, tokens)
                assert window["texts"] == [f"#{token}" for token in tokens]


def test_it_does_not_matter_how_windows_are_batched_and_equals_stay_in_order() -> None:
    counted = torch.ones(6, 5, dtype=torch.bool)
    activations = torch.zeros(6, 5, 3)
    activations[:, 2, 1] = torch.tensor([1.0, -4, 2, 4, 0, 2])
    tops: list[TopWindows] = []
    for size in (6, 2, 1):
        top = TopWindows.draw(torch.tensor([False, True, False]), ExamplePlan(2, 4), 7, seed=0, layer=0)
        for numbers in torch.arange(6).split(size):
            top.add(activations[numbers].flatten(0, 1), counted[numbers], numbers)
        tops.append(top)
    for top in tops:
        assert top.features.tolist() == [1]
        assert top.numbers.tolist() == [[1, 3, 2, 5]]
        assert top.values[0, :, 2].tolist() == [-4, 4, 2, 2]
        assert float(top.values.abs().sum()) == 12


def test_few_tokens_are_shown_around_the_strongest() -> None:
    held_out = corpus().windows("held-out")
    longest = int(held_out.bounds.diff(dim=1).argmax())
    top = TopWindows.draw(torch.tensor([True]), ExamplePlan(1, 1), 17, seed=0, layer=0)
    counted = held_out.batch([longest]).counted
    activations = torch.zeros(int(counted.sum()), 1)
    activations[13] = 2.5
    top.add(activations, counted, torch.tensor([longest]))
    ((window,),) = (it["windows"] for it in top.report(held_out))
    tokens = held_out.batch([longest]).tokens[0].tolist()
    assert window["tokens"] == tokens[14 - 12 :]
    assert (window["strongest"], window["values"][12], sum(window["values"])) == (12, 2.5, 2.5)


def test_densities_are_counted_by_half_decades() -> None:
    found = density_histogram(torch.tensor([0, 1, 1000, 1, 31, 32, 0]), 1000)
    assert found["log10_bounds"] == pytest.approx([-5 + step / 2 for step in range(11)])
    assert found["counts"] == [0, 0, 0, 0, 2, 0, 1, 1, 0, 1]
