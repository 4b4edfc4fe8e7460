"""Documents from tables: a row each, from the column that holds the text, whatever wrote the file."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from hagd.corpora.sources import digest_of_files, documents, files_of
from hagd.corpora.tables import texts_of_table
from hagd.errors import InvalidInputError

TEXTS = [f"text {number}, with «marks»\nand lines" for number in range(2311)]


def table(texts: Sequence[str | None] = TEXTS, name: str = "text") -> pa.Table:
    return pa.table({"number": list(range(len(texts))), name: pa.array(texts, pa.string())})


def write_parquet(path: Path) -> None:
    parquet.write_table(table(), path, row_group_size=1013)


def write_stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, ipc.new_stream(sink, table().schema) as writer:
        writer.write_table(table(), 700)


def write_file(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, ipc.new_file(sink, table().schema) as writer:
        writer.write_table(table(), 700)


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("number", "text"), *enumerate(TEXTS)])


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.parquet", write_parquet), ("a.arrow", write_stream), ("b.arrow", write_file), ("A.CSV", write_csv)],
)
def test_every_row_of_every_kind_of_table_is_a_document(name: str, write: object, tmp_path: Path) -> None:
    assert callable(write)
    write(tmp_path / name)
    assert list(documents(files_of([str(tmp_path)]))) == TEXTS
    assert list(documents([tmp_path / name], "text")) == TEXTS


def test_numbers_and_empty_cells_in_a_column_of_text_stay_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,other\n12,1\n,2\n"true",3\n')
    assert list(documents([tmp_path / "a.csv"])) == ["12", "", "true"]


def test_of_a_saved_dataset_its_data_is_read_and_not_its_caches(tmp_path: Path) -> None:
    for split in ("test", "train"):
        folder = tmp_path / split
        folder.mkdir()
        write_stream(folder / "data-00000-of-00001.arrow")
        write_stream(folder / "cache-1f2e3d.arrow")
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
        (folder / "dataset_info.json").write_text("{}")
    assert [file.parent.name for file in files_of([str(tmp_path)])] == ["test", "train"]
    assert list(documents(files_of([str(tmp_path / "train")]))) == TEXTS
    (tmp_path / "test" / "state.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="names no data files"):
        files_of([str(tmp_path)])


def test_the_digest_follows_how_a_table_is_read(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv")
    before = digest_of_files([tmp_path / "a.csv"])
    assert digest_of_files([(tmp_path / "a.csv").rename(tmp_path / "a.txt")]) != before


def test_what_is_no_text_is_refused_by_its_row_or_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(table(["one", None]), path)
    with pytest.raises(InvalidInputError, match=r"row 2 of .*a.parquet holds nothing"):
        list(documents([path]))
    parquet.write_table(table(["one"], "body"), path)
    with pytest.raises(InvalidInputError, match=r"no column text, raw_content, content; its columns are number, body"):
        list(documents([path]))
    with pytest.raises(InvalidInputError, match=r"row 1 of .*a.parquet holds no text"):
        list(documents([path], "number"))
    with pytest.raises(InvalidInputError, match=r"row 1 of .* is larger than"):
        list(texts_of_table(path, ("body",), 2))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    (write_parquet if name == "a.parquet" else write_stream)(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InvalidInputError, match="cannot be read"):
        list(documents([path]))
    path.write_bytes(b"no table")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        list(documents([path]))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(tmp_path / "a.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidInputError, match="pyarrow is missing") as refused:
        list(documents([tmp_path / "a.csv"]))
    assert "hagd[datasets]" in refused.value.hint
