"""Dictionaries from a corpus: the same whether layers learn together or apart, at once or with a stop between."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from hagd.artifacts.document import Document
from hagd.corpora.corpus import Corpus
from hagd.corpora.storage import corpus_to_document
from hagd.dictionaries.dictionary import neurons_of
from hagd.dictionaries.metrics import fraction_unexplained
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.errors import CancelledError, InvalidInputError
from hagd.models.storage import model_to_document
from hagd.models.trunk import run_trunk
from hagd.testing import RecordingContext
from hagd_transcoder.corpus_dictionaries import join, run, run_shard
from hagd_transcoder.corpus_handlers import resolve, split
from hagd_transcoder.domain.corpus_evaluation import evaluate_on_corpus
from hagd_transcoder.domain.corpus_training import windows_of_step
from unit.hagd_transcoder.tiny_subjects import VOCAB, tiny_model

TINY = tiny_model(n_layers=3, activation="silu")
MODEL = replace(TINY, config=replace(TINY.config, n_positions=17))
CONFIG: dict[str, Any] = {"n_features": 13, "k": 5, "batch": 60, "tokens": 1200, "traced": 3}


def corpus() -> Corpus:
    lengths = torch.randint(20, 60, (19,), generator=torch.Generator().manual_seed(0))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    tokens = torch.randint(VOCAB, (int(offsets[-1]),), generator=torch.Generator().manual_seed(1))
    held_out = torch.arange(19) % 4 == 0
    return Corpus(tokens.int(), offsets, held_out, 17, None)


def inputs() -> dict[str, Document]:
    return {"model": model_to_document(MODEL), "corpus": corpus_to_document(corpus(), {"digest": "0" * 64})}


def test_training_leaves_less_unexplained_than_the_start_and_than_random_weights() -> None:
    def mean(**config: Any) -> float:
        found = run(inputs(), {**CONFIG, "n_features": 11, "k": 2, **config}, RecordingContext())["dictionaries"]
        return found.content["metrics"]["fvu_mean"]

    trained = mean(tokens=6000)
    assert trained < 0.85 * mean(tokens=60)
    assert trained < mean(tokens=6000, start="random")


def test_a_layer_learns_the_same_alone_in_a_shard_and_with_the_others() -> None:
    together = dictionaries_from_document(run(inputs(), CONFIG, RecordingContext())["dictionaries"])
    sharded = {**CONFIG, "shards": 2}
    parts = [run_shard(inputs(), it, RecordingContext())["dictionaries"] for it in split(sharded)]
    assert [sorted(dictionaries_from_document(part)) for part in parts] == [[0, 2], [1]]
    for part in parts:
        for layer, dictionary in dictionaries_from_document(part).items():
            assert torch.equal(dictionary.w_dec, together[layer].w_dec)
    given = {f"dictionaries/{number:05d}": part for number, part in enumerate(parts)}
    joined = join({**inputs(), **given}, sharded, RecordingContext())["dictionaries"]
    assert len(joined.content["metrics"]["layers"]) == 3


def test_a_run_that_was_stopped_goes_on_with_the_same_bytes() -> None:
    undisturbed = run(inputs(), CONFIG, RecordingContext())["dictionaries"].encode()
    stopped = RecordingContext(cancel_after=9)
    with pytest.raises(CancelledError):
        run(inputs(), CONFIG, stopped)
    assert stopped.checkpoints
    resumed = RecordingContext(checkpoints=stopped.checkpoints)
    assert run(inputs(), CONFIG, resumed)["dictionaries"].encode() == undisturbed


def test_every_window_is_read_once_before_any_is_read_again() -> None:
    read = torch.cat([windows_of_step(11, 4, step, seed=5) for step in range(11)])
    assert [sorted(part.tolist()) for part in read.split(11)] == [list(range(11))] * 4
    assert read[:11].tolist() != read[11:22].tolist()


def test_batch_top_k_ends_as_thresholds_that_keep_about_k() -> None:
    found = run(inputs(), {**CONFIG, "rule": "batch-topk", "tokens": 6000}, RecordingContext())["dictionaries"]
    for layer, dictionary in dictionaries_from_document(found).items():
        assert (dictionary.k, dictionary.threshold is None) == (None, False)
        assert found.content["metrics"]["layers"][layer]["l0"] == pytest.approx(5, rel=0.25)


def test_neurons_leave_nothing_unexplained_and_change_nothing() -> None:
    neurons = {layer: neurons_of(block.mlp, layer) for layer, block in enumerate(MODEL.blocks)}
    windows = corpus().windows("train"), corpus().windows("held-out")
    found = evaluate_on_corpus(MODEL, neurons, *windows, RecordingContext())
    assert found["fvu_worst"] < 1e-10
    assert abs(found["kl_nats"]) < 1e-6
    assert found["cross_entropy_recovered"] == pytest.approx(1)
    assert [layer["dead_share"] for layer in found["layers"]] == [0, 0, 0]


def test_errors_are_those_of_all_held_out_tokens_but_the_first_of_each_window() -> None:
    document = run(inputs(), CONFIG, RecordingContext())["dictionaries"]
    found, held_out = dictionaries_from_document(document), corpus().windows("held-out")
    rows: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {0: [], 1: [], 2: []}
    for number in range(len(held_out)):
        batch = held_out.batch([number])
        run_trunk(MODEL, batch.tokens, lambda layer, it: rows[layer].append((it.x[0, 1:], it.out[0, 1:])))
    for layer, measured in enumerate(document.content["metrics"]["layers"]):
        x, out = (torch.cat(side) for side in zip(*rows[layer], strict=True))
        rebuilt = found[layer].decode(found[layer].encode(x), x)
        assert measured["fvu"] == pytest.approx(fraction_unexplained(out, rebuilt), rel=1e-4)
        low, high = measured["fvu_ci95"]
        assert low < measured["fvu"] < high
        assert measured["l0"] == pytest.approx(5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="k is 14, but there are only 13 features"):
        resolve({"n_features": 13, "k": 14})
    with pytest.raises(InvalidInputError, match="names layer 3, but the model has 3"):
        run(inputs(), {**CONFIG, "layers": [3]}, RecordingContext())
    with pytest.raises(InvalidInputError, match="only 3 layers get a dictionary"):
        run_shard(inputs(), {**CONFIG, "shards": 4, "shard": 0}, RecordingContext())
    with pytest.raises(InvalidInputError, match="k is 64, but there are only 7"):
        run(
            inputs(),
            {"n_features": 7, "k": None, "layers": [0], "start": "mlp", "tokens": 60} | {"k": 64},
            RecordingContext(),
        )
