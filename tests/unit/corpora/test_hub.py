"""Text of a dataset repository, from a hub on loopback."""

import json
from pathlib import Path

import pytest

from hagd.corpora.hub import MOST_FILES, text_at
from hagd.corpora.sources import digest_of_files, documents, files_of
from hagd.errors import InvalidInputError, UnknownNameError
from hagd.extraction.corpus_plan import build_corpus_plan
from hagd.extraction.settings import Settings
from hub_server import Hub

REPOSITORY = "datasets/owner/texts"
LINES = "".join(json.dumps({"text": f"document {it}"}) + "\n" for it in range(5)).encode()
FILES = {"train/a.jsonl": LINES, "train/b.txt": b"a book", "test/c.jsonl": b'{"text": "held out"}\n'}
ASIDE = {"README.md": b"a card", "texts.py": b"import os", "train/notes.md": b"notes", "dataset_infos.json": b"{}"}


def test_text_is_read_and_scripts_and_cards_are_not_fetched(hub: Hub) -> None:
    hub.add(REPOSITORY, FILES | ASIDE)

    folder = text_at("hub:owner/texts/train")

    assert list(documents(files_of([str(folder)]))) == [*(f"document {it}" for it in range(5)), "a book"]
    assert sorted(it.name for it in text_at("hub:owner/texts").rglob("*.*")) == ["a.jsonl", "b.txt", "c.jsonl"]
    assert not [path for path in hub.fetched() if any(name in path for name in ASIDE)]


def test_a_plan_counts_the_text_and_not_where_it_came_from(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add(REPOSITORY, FILES | ASIDE)
    for name in ("train/a.jsonl", "train/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(FILES[name])
    settings = Settings(model="smollm2")

    plan = build_corpus_plan(settings, [Path("hub:owner/texts/train")])

    (path,) = plan[0].config["data"]
    assert commit in path
    assert plan[0].config["digest"] == digest_of_files(files_of([str(tmp_path / "train")]))
    hub.repositories[REPOSITORY].commit({"train/b.txt": b"another book"})
    assert build_corpus_plan(settings, [Path("hub:owner/texts/train")])[0].config["digest"] != plan[0].config["digest"]
    at_first = build_corpus_plan(settings, [Path(f"hub:owner/texts/train@{commit}")])
    assert at_first[0].config == plan[0].config


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"texts.py": b"import os", "README.md": b"card"}, "has no text"),
        ({f"{it}.txt": b"x" for it in range(MOST_FILES + 1)}, f"at most {MOST_FILES} files"),
    ],
)
def test_a_repository_without_text_or_with_too_much_is_refused(files: dict[str, bytes], words: str, hub: Hub) -> None:
    hub.add(REPOSITORY, files)
    with pytest.raises(InvalidInputError, match=words):
        text_at("hub:owner/texts")
    assert hub.fetched() == []


def test_more_bytes_than_anybody_reads_here_are_refused_by_the_listing(hub: Hub) -> None:
    hub.add(REPOSITORY, FILES)
    hub.lists = lambda files: [it | {"size": 9 << 30} for it in files]
    with pytest.raises(InvalidInputError, match=r"3 files of text, 27\.0 GiB"):
        text_at("hub:owner/texts")
    assert hub.fetched() == []


def test_a_model_of_that_name_is_no_dataset(hub: Hub) -> None:
    hub.add("models/owner/texts", FILES)
    with pytest.raises(UnknownNameError, match="there is no dataset 'owner/texts'"):
        text_at("hub:owner/texts")
