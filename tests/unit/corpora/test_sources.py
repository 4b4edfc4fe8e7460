"""Documents from files: one per text file, one per line of JSON, whatever the schema calls its text."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from hagd.corpora.sources import digest_of_files, documents, files_of, shuffled, told_left_out
from hagd.errors import InvalidInputError

FIRST_SCHEMA = {"text": "one", "meta": {"source": "x"}, "red_pajama_subset": "arxiv"}
SECOND_SCHEMA = {"raw_content": "two", "doc_id": "7", "meta": "{}", "quality_signals": "{}"}


def lines(path: Path, *entries: object) -> Path:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return path


def test_both_schemas_of_red_pajama_and_a_named_field_are_read(tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", FIRST_SCHEMA, SECOND_SCHEMA)
    assert list(documents([file])) == ["one", "two"]
    other = lines(tmp_path / "b.jsonl", {"text": "not this", "body": "this"})
    assert list(documents([other], "body")) == ["this"]


def test_packed_lines_and_text_files_are_read(tmp_path: Path) -> None:
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "packed"}\n\n{"text": "again"}\n'))
    (tmp_path / "b.txt").write_text("plain\n")
    assert list(documents(files_of([str(tmp_path)]))) == ["packed", "again", "plain\n"]


def test_lines_packed_by_zstandard_are_read_in_one_piece_or_several(tmp_path: Path) -> None:
    def pack(*lines: bytes) -> bytes:
        return b"".join(pa.compress(line, codec="zstd", asbytes=True) for line in lines)

    whole, parts = tmp_path / "a.jsonl.zst", tmp_path / "b.jsonl.zst"
    whole.write_bytes(pack(b'{"text": "packed"}\n\n{"text": "again"}\n'))
    parts.write_bytes(pack(b'{"text": "fir', b'st"}\n{"text": "second"}\n'))
    assert list(documents(files_of([str(tmp_path)]))) == ["packed", "again", "first", "second"]
    with pytest.raises(InvalidInputError, match=r"a\.jsonl\.zst cannot be read"):
        whole.write_bytes(pack(b'{"text": "packed"}\n' * 1000)[:-7])
        list(documents([whole]))
    with pytest.raises(InvalidInputError, match=r"b\.jsonl\.zst cannot be read"):
        parts.write_bytes(b'{"text": "not packed"}\n')
        list(documents([parts]))


def test_what_is_left_out_of_a_folder_is_told_by_number_and_ending(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    for name in ("a.txt", "b.jsonl", ".hidden", "saved/state.json", "saved/dataset_info.json", "saved/cache-1.arrow"):
        (tmp_path / name).write_text('{"_data_files": []}')
    assert told_left_out([str(tmp_path)]) == ""
    for name in ("c.json", "d.JSON", "e.tar.gz", "LICENSE"):
        (tmp_path / name).write_text("x")
    assert told_left_out([str(tmp_path)]) == "4 files are left out (2 .json, 1 .tar.gz, 1 LICENSE)"
    (tmp_path / "a.txt").unlink()
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(InvalidInputError, match=r"there is no text at .*: 4 files are left out \(2 \.json"):
        files_of([str(tmp_path)])


def test_a_folder_is_read_in_the_order_of_its_names_and_other_files_are_left(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("z.md", "a.rst", "deep/b.txt", "picture.png"):
        (tmp_path / name).write_text(name)
    assert [file.name for file in files_of([str(tmp_path)])] == ["a.rst", "b.txt", "z.md"]


def test_the_digest_follows_how_a_file_is_read(tmp_path: Path) -> None:
    text = lines(tmp_path / "a.txt", FIRST_SCHEMA, FIRST_SCHEMA)
    before = digest_of_files([text])
    assert digest_of_files([text.rename(tmp_path / "a.jsonl")]) != before


def test_half_of_a_pair_of_surrogates_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "hi \\ud83d there"}\n')
    assert list(documents([file])) == ["hi ? there"]


def test_the_digest_follows_the_content_and_not_the_names(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("same")
    second.write_text("same")
    assert digest_of_files([first]) == digest_of_files([second])
    second.write_text("other")
    assert digest_of_files([first]) != digest_of_files([second])


def test_shuffling_keeps_every_document_and_follows_the_seed() -> None:
    texts = [str(number) for number in range(101)]
    once = list(shuffled(iter(texts), seed=3, buffer=13))
    assert sorted(once) == sorted(texts)
    assert once != texts
    assert once == list(shuffled(iter(texts), seed=3, buffer=13))
    assert once != list(shuffled(iter(texts), seed=4, buffer=13))


def test_what_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="there is no text at"):
        files_of([str(tmp_path / "nowhere")])
    with pytest.raises(InvalidInputError, match="there is no text at"):
        files_of([str(tmp_path)])
    broken = tmp_path / "a.jsonl"
    broken.write_text('{"text": "x"}\n{"text": \n')
    with pytest.raises(InvalidInputError, match=r"line 2 of .*a.jsonl is no JSON"):
        list(documents([broken]))
    with pytest.raises(InvalidInputError, match=r"has no text in body; its fields are text"):
        list(documents([lines(tmp_path / "c.jsonl", {"text": "x"})], "body"))
    latin = tmp_path / "d.txt"
    latin.write_bytes("ü".encode("latin-1"))
    with pytest.raises(InvalidInputError, match="is not UTF-8"):
        list(documents([latin]))
    with pytest.raises(InvalidInputError, match="there is no text at"):
        files_of(["~nobody-of-this-name/text"])
    damaged = tmp_path / "f.jsonl.gz"
    packed = bytearray(gzip.compress(b'{"text": "packed"}\n' * 100))
    packed[14:30] = b"?" * 16
    damaged.write_bytes(packed)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        list(documents([damaged]))
    cut = tmp_path / "e.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"text": "packed"}\n')[:-6])
    with pytest.raises(InvalidInputError, match="cannot be read"):
        list(documents([cut]))
