"""Windows stay inside documents, held-out documents stay out, and position 0 never counts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hagd.artifacts.document import Document
from hagd.corpora.corpus import SHORTEST_WINDOW, Corpus
from hagd.corpora.storage import corpus_from_document, corpus_to_document
from hagd.errors import CorruptArtifactError, InvalidInputError


def corpus(lengths: list[int], held_out: list[bool], context: int = 17, bos_id: int | None = None) -> Corpus:
    """Give documents whose tokens count up, so that a token says where it stands."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    tokens = torch.arange(int(offsets[-1]), dtype=torch.int32)
    return Corpus(tokens, offsets, torch.tensor(held_out), context, bos_id)


@given(st.lists(st.integers(0, 60), min_size=2, max_size=7), st.sampled_from([None, 999]))
def test_every_token_is_read_once_but_for_short_rests(lengths: list[int], bos_id: int | None) -> None:
    documents = corpus([40, *lengths], [False] * (len(lengths) + 1), bos_id=bos_id)
    windows = documents.windows("train")
    read: list[int] = []
    for number in range(len(windows)):
        batch = windows.batch([number])
        tokens = batch.tokens[0].tolist()
        if bos_id is not None:
            assert tokens.pop(0) == bos_id
        assert len(batch.tokens[0]) <= documents.context
        document = torch.searchsorted(documents.offsets, torch.tensor(tokens), right=True)
        assert len(document.unique()) == 1
        read += tokens
    assert len(read) == len(set(read))
    most = documents.context - (bos_id is not None)
    rests = [length % most for length in (40, *lengths)]
    assert len(documents.tokens) - len(read) == sum(rest for rest in rests if rest < SHORTEST_WINDOW)


def test_windows_of_one_batch_are_filled_up_behind_their_end_and_count_from_the_second_token() -> None:
    windows = corpus([17, 9], [False, False]).windows("train")
    batch = windows.batch([1, 0])
    assert batch.tokens.tolist()[0][:9] == list(range(17, 26))
    assert batch.tokens.tolist()[1] == list(range(17))
    assert batch.counted.sum(1).tolist() == [8, 16]
    assert not batch.counted[:, 0].any()
    assert batch.counted[0].tolist() == [False] + [True] * 8 + [False] * 8


def test_held_out_documents_are_in_no_window_of_training() -> None:
    documents = corpus([20, 30, 40], [False, True, False])
    held_out, train = documents.windows("held-out"), documents.windows("train")
    assert held_out.bounds.min() >= 20
    assert held_out.bounds.max() <= 50
    assert not ((train.bounds[:, 0] >= 20) & (train.bounds[:, 0] < 50)).any()


def test_a_split_without_a_window_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no held-out document of 8 tokens"):
        corpus([20, 5], [False, True]).windows("held-out")


def test_a_corpus_survives_storage() -> None:
    original = corpus([20, 30], [False, True], bos_id=7)
    document = Document.decode(corpus_to_document(original, {"files": 2}).encode())
    assert document.content["provenance"] == {"files": 2}
    read = corpus_from_document(document)
    assert (read.context, read.bos_id) == (17, 7)
    for name in ("tokens", "offsets", "held_out"):
        assert torch.equal(getattr(read, name), getattr(original, name))


def test_documents_that_do_not_fill_the_tokens_are_refused() -> None:
    document = corpus_to_document(corpus([20, 30], [False, True]), {})
    cut = Document(document.content, {**document.tensors, "tokens": document.tensors["tokens"][:-1]})
    with pytest.raises(CorruptArtifactError, match="do not fill"):
        corpus_from_document(cut)
    with pytest.raises(CorruptArtifactError, match="lacks a part"):
        corpus_from_document(Document(document.content, {}))
    with pytest.raises(CorruptArtifactError, match="expected a document"):
        corpus_from_document(Document({"schema": "other"}))
