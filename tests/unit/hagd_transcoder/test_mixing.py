"""Prompts of tasks among the text: their share of the tokens, each before any comes again, never measured on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.corpora.corpus import Corpus
from hagd.corpora.storage import corpus_from_document, corpus_to_document
from hagd.errors import CancelledError, InvalidInputError, UnknownNameError, UsageError
from hagd.models.storage import model_to_document
from hagd.tasks import ioi
from hagd.testing import RecordingContext
from hagd_transcoder.corpus import read_corpus_config, resolve
from hagd_transcoder.corpus_dictionaries import run
from hagd_transcoder.corpus_stage import prompts_of
from hagd_transcoder.domain.mixing import mixed
from unit.hagd_transcoder.tiny_subjects import VOCAB, tiny_model
from unit.tasks.words import word_tokenizer, words_of


def text() -> Corpus:
    lengths = torch.tensor([0, 31, 29, 37, 41])
    tokens = torch.arange(int(lengths.sum()), dtype=torch.int32) % VOCAB
    return Corpus(tokens, lengths.cumsum(0), torch.tensor([False, True, False, False]), 9, None)


PROMPTS: dict[str, list[Tensor]] = {
    "a": [torch.full((5,), number, dtype=torch.int32) for number in range(3)],
    "b": [torch.full((7,), 20, dtype=torch.int32)],
}


def test_prompts_are_their_share_of_what_is_trained_on_and_each_comes_before_any_comes_again() -> None:
    found = mixed(text(), PROMPTS, {"a": 0.3, "b": 0.2}, seed=1)
    lengths = found.offsets.diff()
    trained = float(lengths[~found.held_out].sum())
    added = lengths[4:]
    assert float(added[added == 5].sum()) / trained == pytest.approx(0.3, abs=2.5 / trained)
    assert float(added[added == 7].sum()) / trained == pytest.approx(0.2, abs=3.5 / trained)
    assert torch.equal(found.tokens[: len(text().tokens)], text().tokens)
    firsts = found.tokens[found.offsets[4:-1]][added == 5].tolist()
    assert [sorted(firsts[at : at + 3]) for at in range(0, len(firsts) - 2, 3)] == [[0, 1, 2]] * (len(firsts) // 3)


def test_prompts_are_read_whole_however_short_and_never_measured_on() -> None:
    found = mixed(text(), PROMPTS, {"a": 0.4}, seed=1)
    held_out, train = found.windows("held-out"), found.windows("train")
    assert torch.equal(held_out.bounds, text().windows("held-out").bounds)
    prompts = train.bounds[train.bounds[:, 0] >= len(text().tokens)]
    assert prompts.diff(dim=1)[:, 0].tolist() == [5] * found.n_prompts
    assert torch.equal(train.bounds[: -len(prompts)], text().windows("train").bounds)


def test_the_same_seed_mixes_the_same_and_another_does_not() -> None:
    one, same, other = (mixed(text(), PROMPTS, {"a": 0.5}, seed) for seed in (1, 1, 2))
    assert torch.equal(one.tokens, same.tokens)
    assert not torch.equal(one.tokens, other.tokens)


def test_a_mixed_corpus_survives_storage_and_a_plain_one_keeps_its_bytes() -> None:
    found = mixed(text(), PROMPTS, {"a": 0.5}, seed=1)
    document = Document.decode(corpus_to_document(found, {}).encode())
    assert corpus_from_document(document).n_prompts == found.n_prompts
    assert "n_prompts" not in corpus_to_document(mixed(text(), {}, {}, seed=1), {}).content


def test_training_on_mixed_text_that_was_stopped_goes_on_with_the_same_bytes() -> None:
    given = {
        "model": model_to_document(tiny_model(n_layers=2)),
        "corpus": corpus_to_document(mixed(text(), PROMPTS, {"a": 0.3, "b": 0.2}, seed=1), {"digest": "0" * 64}),
    }
    config: dict[str, Any] = {"n_features": 13, "k": 5, "batch": 40, "buffer": 40, "tokens": 900}
    undisturbed = run(given, config, RecordingContext())["dictionaries"].encode()
    stopped = RecordingContext(cancel_after=9)
    with pytest.raises(CancelledError):
        run(given, config, stopped)
    assert stopped.checkpoints
    resumed = RecordingContext(checkpoints=stopped.checkpoints)
    assert run(given, config, resumed)["dictionaries"].encode() == undisturbed


def test_a_share_that_is_no_prompt_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="is not one prompt of a"):
        mixed(text(), PROMPTS, {"a": 0.001}, seed=1)


@pytest.mark.parametrize(
    ("mix", "error", "said"),
    [
        ({"nothing": 0.1}, UnknownNameError, "no task 'nothing'"),
        ({"parity": 0.1}, UsageError, "cannot be mixed"),
        ({"ioi": 0.6, "facts": 0.4}, UsageError, "leave nothing for the text"),
        ({"ioi": 1.5}, InvalidInputError, "corpus.mix.ioi"),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    mix: dict[str, float], error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        read_corpus_config({"model": {"path": "x"}, "data": [str(tmp_path)], "mix": mix})


def test_the_mix_is_part_of_what_names_the_corpus_and_no_mix_is_not() -> None:
    plain = {"model": {"path": "x"}, "data": ["y"], "digest": "0" * 64}
    assert "mix" not in resolve(plain)
    assert resolve({**plain, "mix": {"ioi": 0.1}})["mix"] == {"ioi": 0.1}


def test_prompts_that_are_longer_than_a_window_are_refused() -> None:
    words = words_of(*ioi.TEMPLATES, *ioi.OOD_TEMPLATES, ioi.NAMES, ioi.OOD_NAMES, *ioi.PLACES, *ioi.OBJECTS)
    tokenizer = word_tokenizer(words)
    with pytest.raises(InvalidInputError, match="prompts of ioi have 14 tokens"):
        prompts_of({"ioi": 0.1}, tokenizer, 13)
    found = prompts_of({"ioi": 0.1}, tokenizer, 20)["ioi"]
    assert {len(row) for row in found} == {14}
