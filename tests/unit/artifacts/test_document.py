"""Documents: equal content gives equal bytes, and nothing that is not finite gets in."""

import numpy as np
import pytest

from hagd.artifacts.document import Document
from hagd.artifacts.store import get_document, put_document
from hagd.errors import CorruptArtifactError, NonFiniteError
from hagd.testing import MemoryStore


def test_a_document_comes_back_with_its_tensors() -> None:
    tensors = {"b": np.arange(6, dtype=np.int64).reshape(2, 3), "a": np.float32([0.5, -1.5])}
    store = MemoryStore()
    there = get_document(store, put_document(store, Document({"n": 3, "name": "é"}, tensors)))
    assert there.content == {"n": 3, "name": "é"}
    assert sorted(there.tensors) == ["a", "b"]
    for name, value in tensors.items():
        np.testing.assert_array_equal(there.tensors[name], value)
        assert there.tensors[name].dtype == value.dtype


def test_the_order_of_keys_and_the_layout_of_tensors_do_not_change_the_bytes() -> None:
    square = np.arange(9.0).reshape(3, 3)
    one = Document({"x": 1, "y": 2}, {"a": square.T.copy(), "b": square})
    two = Document({"y": 2, "x": 1}, {"b": square, "a": square.T})
    assert one.encode() == two.encode()


@pytest.mark.parametrize("document", [Document({"x": float("nan")}), Document({}, {"w": np.float32([1, np.inf])})])
def test_what_is_not_finite_is_refused(document: Document) -> None:
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        document.encode()


@pytest.mark.parametrize("data", [b"", b"{", b"hello world", b"\x08\0\0\0\0\0\0\0{}      "])
def test_bytes_of_something_else_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptArtifactError, match="not an artifact document"):
        Document.decode(data)
