"""Directions in files: each layout gives the same numbers, and what holds something else is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hagd.errors import InvalidInputError
from hagd.extraction.vector_files import read_vectors

VECTOR = [0.5, -2.0, 3.0]


def test_every_layout_gives_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(VECTOR))
    (tmp_path / "more.json").write_text(json.dumps({"b": VECTOR}))
    np.save(tmp_path / "c.npy", np.array(VECTOR, dtype=np.float32))
    save_file({"d": np.array(VECTOR), "e": np.array(VECTOR)}, tmp_path / "x.safetensors")
    found = read_vectors(tmp_path / name for name in ("a.json", "more.json", "c.npy", "x.safetensors"))
    assert found == dict.fromkeys("abcde", VECTOR)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", b"[1, 2", "cannot be read"),
        ("a.json", b"[[1, 2], [3]]", "cannot be read"),
        ("a.json", b'["x"]', "dtype"),
        ("a.json", b"7", "shape"),
        ("a.json", b"null", "shape"),
        ("a.json", b"[1, NaN]", "NaN or infinity"),
        ("a.npy", b"\x80\x04.", "cannot be read"),
        ("a.safetensors", b"1234567890", "cannot be read"),
        ("a.txt", b"1 2 3", "neither"),
    ],
)
def test_files_of_something_else_are_refused(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=told) as refused:
        read_vectors([tmp_path / name])
    assert refused.value.hint


def test_two_vectors_of_one_name_and_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(VECTOR))
    with pytest.raises(InvalidInputError, match="two vectors are called 'a'"):
        read_vectors([tmp_path / "a.json", tmp_path / "a.json"])
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_vectors([tmp_path / "b.json"])
