"""What training is said to take against what it takes: processor time in this process, and refusals by memory."""

import time
from typing import Any

import pytest
import torch

from hagd.corpora.corpus import Corpus
from hagd.corpora.storage import corpus_to_document
from hagd.errors import InvalidInputError
from hagd.testing import RecordingContext
from hagd_transcoder import corpus_dictionaries
from hagd_transcoder.corpus_dictionaries import make_plan, memory_of, run, run_shard
from hagd_transcoder.corpus_handlers import read_config
from hagd_transcoder.domain.corpus_calibration import time_training
from hagd_transcoder.domain.corpus_memory import require_memory
from unit.hagd_transcoder.test_corpus_training import CONFIG, MODEL, corpus, inputs
from unit.hagd_transcoder.tiny_subjects import VOCAB

LONGER: dict[str, Any] = {"n_features": 1013, "k": 7, "batch": 500, "tokens": 60_000}


def long_corpus() -> Corpus:
    lengths = torch.randint(20, 60, (701,), generator=torch.Generator().manual_seed(0))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    tokens = torch.randint(VOCAB, (int(offsets[-1]),), generator=torch.Generator().manual_seed(1))
    return Corpus(tokens.int(), offsets, torch.arange(701) % 13 == 0, 9, None)


def plan_of(config: dict[str, Any], documents: Corpus) -> Any:
    return make_plan(read_config(config), MODEL, documents)


@pytest.mark.parametrize("finetune", [0.0, 0.3])
def test_time_is_told_within_a_half(finetune: float) -> None:
    """In processor time, which other work on the machine hardly changes."""
    config = {**LONGER, "finetune": finetune}
    documents, threads = long_corpus(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        told = time_training(MODEL, documents, plan_of(config, documents), RecordingContext(), clock=time.process_time)
        given = inputs() | {"corpus": corpus_to_document(documents, {"digest": "0" * 64})}
        began = time.process_time()
        run(given, config, RecordingContext())["dictionaries"].encode()
        taken = time.process_time() - began
    finally:
        torch.set_num_threads(threads)
    assert told.total == pytest.approx(taken, rel=0.5)


def test_shards_learn_in_less_memory_and_are_measured_in_the_same() -> None:
    documents = corpus()
    whole, divided = read_config(CONFIG), read_config({**CONFIG, "shards": 3})
    plan = plan_of(CONFIG, documents)
    one, three = (memory_of(it, plan, MODEL, documents) for it in (whole, divided))
    assert 3 * three.checkpoint == one.checkpoint
    assert three.measuring == one.measuring


def test_memory_grows_with_what_is_trained() -> None:
    documents = corpus()

    def checkpoint(**config: Any) -> int:
        read = read_config({**CONFIG, **config})
        return memory_of(read, make_plan(read, MODEL, documents), MODEL, documents).checkpoint

    floats = 13 * (3 * 14 + 2) + 14 + 14 * 14
    assert checkpoint() == 7 * 3 * 4 * floats
    assert checkpoint(layers=[1]) == 7 * 4 * floats
    assert checkpoint(layers=[1], skip=False) == 7 * 4 * (floats - 14 * 14)


def test_learning_together_holds_what_every_layer_did_and_only_when_it_is_asked_for() -> None:
    documents = corpus()

    def finetuning(**config: Any) -> int:
        read = read_config({**CONFIG, **config})
        return memory_of(read, make_plan(read, MODEL, documents), MODEL, documents).finetuning

    assert finetuning() == 0
    two, four = (finetuning(finetune=0.3, finetune_batch=number * 15) for number in (2, 4))
    weights = 5 * 3 * 4 * (13 * (3 * 14 + 2) + 14 + 14 * 14)
    assert four - weights == 2 * (two - weights) > 0


def test_training_that_does_not_fit_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = corpus()
    needed = memory_of(read_config(CONFIG), plan_of(CONFIG, documents), MODEL, documents)
    require_memory(needed, int(needed.peak_bytes / 0.9) + 2)
    context = RecordingContext()
    monkeypatch.setattr(corpus_dictionaries, "available_bytes", lambda _device: needed.peak_bytes)
    for start in (run, run_shard):
        with pytest.raises(InvalidInputError, match="GiB") as refused:
            start(inputs(), CONFIG if start is run else {**CONFIG, "shard": 0}, context)
        assert "corpus-transcoder.layers" in refused.value.hint
    assert context.reports == []
