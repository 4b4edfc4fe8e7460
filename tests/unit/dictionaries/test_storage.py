"""Dictionaries survive storage, and damage is named."""

from dataclasses import fields, replace

import pytest
import torch

from hagd.artifacts.document import Document
from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.storage import dictionaries_from_document, dictionaries_to_document
from hagd.errors import CorruptArtifactError


def dictionary(layer: int, *, gated: bool, jumps: bool = False) -> Dictionary:
    draw = torch.Generator().manual_seed(layer)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    return Dictionary(
        kind="gated" if gated else "transcoder",
        layer=layer,
        activation="silu" if gated else "relu",
        k=None if jumps else 3,
        w_gate=tensor(5, 7) if gated else None,
        b_gate=tensor(7) if gated else None,
        w_enc=tensor(5, 7),
        b_enc=tensor(7),
        w_dec=tensor(7, 5),
        b_dec=tensor(5),
        w_skip=tensor(5, 5) if gated else None,
        threshold=tensor(7).abs() if jumps else None,
    )


def test_stored_dictionaries_come_back_bit_for_bit_with_their_metrics() -> None:
    originals = {2: dictionary(2, gated=True), 0: dictionary(0, gated=False), 3: dictionary(3, gated=True, jumps=True)}
    document = Document.decode(dictionaries_to_document(originals, {"layers": [{"fvu": 0.25}]}).encode())
    assert document.content["metrics"]["layers"][0]["fvu"] == 0.25
    read = dictionaries_from_document(document)
    assert list(read) == [0, 2, 3]
    for layer, original in originals.items():
        for field in fields(Dictionary):
            before, after = getattr(original, field.name), getattr(read[layer], field.name)
            assert torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after


def test_what_top_k_ranks_by_is_stored_where_it_is_not_the_contribution() -> None:
    original = replace(dictionary(0, gated=False), ranked_by="activation")
    document = Document.decode(dictionaries_to_document({0: original}, {}).encode())
    assert dictionaries_from_document(document)[0].ranked_by == "activation"
    assert "ranked_by" not in dictionaries_to_document({0: dictionary(0, gated=False)}, {}).content["layers"][0]
    document.content["layers"][0]["ranked_by"] = "size"
    with pytest.raises(CorruptArtifactError, match="ranks its features by 'size'"):
        dictionaries_from_document(document)


def test_equal_dictionaries_give_equal_bytes() -> None:
    first, second = (dictionaries_to_document({0: dictionary(0, gated=True)}, {}).encode() for _ in range(2))
    assert first == second


def test_a_missing_tensor_is_named() -> None:
    document = dictionaries_to_document({0: dictionary(0, gated=False)}, {})
    tensors = {name: value for name, value in document.tensors.items() if name != "0.w_dec"}
    with pytest.raises(CorruptArtifactError, match=r"0\.w_dec"):
        dictionaries_from_document(replace(document, tensors=tensors))


def test_a_wrong_shape_is_named() -> None:
    document = dictionaries_to_document({0: dictionary(0, gated=False)}, {})
    tensors = {**document.tensors, "0.b_enc": document.tensors["0.b_enc"][:5]}
    with pytest.raises(CorruptArtifactError, match=r"b_enc of layer 0 has shape \(5,\), expected \(7,\)"):
        dictionaries_from_document(replace(document, tensors=tensors))


def test_an_encoder_that_is_no_matrix_is_named() -> None:
    document = dictionaries_to_document({0: dictionary(0, gated=False)}, {})
    tensors = {**document.tensors, "0.w_enc": document.tensors["0.w_enc"].ravel()}
    with pytest.raises(CorruptArtifactError, match="w_enc of layer 0 has 1 axes, expected 2"):
        dictionaries_from_document(replace(document, tensors=tensors))


def test_another_document_is_refused() -> None:
    with pytest.raises(CorruptArtifactError, match="schema"):
        dictionaries_from_document(Document({"schema": "hagd.task/v1"}))
