"""Documents: equal content gives equal bytes, and nothing that is not finite gets in."""

from pathlib import Path

import numpy as np
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from hagd.artifacts.document import DTYPES, Document
from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.mapped import let_go, mapped_zeros
from hagd.artifacts.store import get_document, put_document
from hagd.errors import CorruptArtifactError, InvalidInputError, NonFiniteError
from hagd.execution.running import peak_rss_bytes, reset_peak_rss
from hagd.pipeline.machine import resident_bytes
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


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 5), max_size=3), st.booleans()),
        min_size=1,
        max_size=5,
    ),
    st.text(max_size=20),
)
def test_the_bytes_are_those_that_safetensors_writes(drawn: list[tuple[str, list[int], bool]], text: str) -> None:
    tensors = {f"{'aβ'[last]}{number}": np.ones(shape, dtype) for number, (dtype, shape, last) in enumerate(drawn)}
    document = Document({"said": text}, tensors)
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    assert document.encode() == save(arrays, metadata={"hagd": rfc8785.dumps({"said": text}).decode()})


def test_a_tensor_that_safetensors_does_not_keep_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'w' is of dtype complex64"):
        Document({}, {"w": np.zeros(3, np.complex64)}).encode()


def test_a_large_document_is_stored_without_a_copy_of_it_in_memory(tmp_path: Path) -> None:
    store = FilesystemStore(tmp_path / "store")
    rows = mapped_zeros((3001, 4099), np.dtype(np.float32), tmp_path)
    rows[:, ::512] = 1.5
    document = Document({"n": 7}, {"rows": rows})
    let_go(rows)
    reset_peak_rss()
    before = resident_bytes()
    ref = put_document(store, document)
    assert peak_rss_bytes() - before < rows.nbytes / 3
    assert ref == put_document(MemoryStore(), document)
    np.testing.assert_array_equal(get_document(store, ref).tensors["rows"], rows)
