"""Prompt files: what a good one becomes, and how each bad line is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from hagd.errors import InvalidInputError
from hagd.tasks import jsonl
from hagd.tasks.configs import JsonlConfig
from hagd.tasks.task import SPLITS, Task
from unit.tasks.words import word_tokenizer

COUNTRIES = [f"Land{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"]
CITIES = [f"City{name[4:]}" for name in COUNTRIES]
TOKENIZER = word_tokenizer([*COUNTRIES, *CITIES, "The", "capital", "of", "is", "In"])


def line_of(number: int, **changes: Any) -> dict[str, Any]:
    here, other = COUNTRIES[number % 52], COUNTRIES[(number + 1) % 52]
    return {
        "clean": f"The capital of {here} is",
        "counterfactual": f"The capital of {other} is",
        "answer": f" City{here[4:]}",
        "foils": [f" City{other[4:]}"],
    } | changes


def write(folder: Path, *lines: dict[str, Any] | bytes) -> JsonlConfig:
    path = folder / "pairs.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return JsonlConfig(path=str(path))


def build(folder: Path, *lines: dict[str, Any] | bytes) -> Task:
    return jsonl.build_jsonl(write(folder, *lines), TOKENIZER)


def test_a_file_becomes_three_splits_of_its_groups(tmp_path: Path) -> None:
    task = build(tmp_path, *(line_of(i) for i in range(50)))
    assert [task.size(split) for split in SPLITS] == [20, 10, 20, 0]
    assert task.roles == ("end-4", "end-3", "end-2", "end-1", "end")
    (batch,) = task.batches["discover"]
    assert batch.layout.answer_positions == (4,)


def test_a_pair_and_its_mirror_share_a_group(tmp_path: Path) -> None:
    pair = line_of(0)
    mirror = line_of(0, clean=pair["counterfactual"], counterfactual=pair["clean"])
    mirror |= {"answer": pair["foils"][0], "foils": [pair["answer"]]}
    task = build(tmp_path, pair, mirror)
    assert len({group for batches in task.batches.values() for batch in batches for group in batch.groups}) == 1


def test_groups_and_splits_are_those_asked_for(tmp_path: Path) -> None:
    lines = [line_of(i, group=f"g{i}", split="ood" if i % 2 else "verify") for i in range(10)]
    task = build(tmp_path, *lines)
    assert [task.size(split) for split in SPLITS] == [0, 0, 5, 5]
    assert set(task.batches["ood"][0].groups) == {f"g{i}" for i in range(1, 10, 2)}


def test_marks_name_positions_and_roles_name_all_of_them(tmp_path: Path) -> None:
    marked = build(tmp_path, line_of(0, marks={"country": "LandA", "ask": "The capital"}))
    named = build(tmp_path, line_of(0, roles=["a", "b", "c", "d", "e"], marks={"country": "LandA"}))
    assert marked.roles == ("ask-1", "ask", "end-2", "country", "end")
    assert named.roles == ("a", "b", "c", "country", "e")


def test_prompts_of_other_lengths_are_other_layouts_that_share_roles_from_the_end(tmp_path: Path) -> None:
    longer = line_of(1, clean="In LandB the capital of LandB is", counterfactual="In LandC the capital of LandC is")
    task = build(tmp_path, line_of(0, split="verify"), longer | {"split": "verify"})
    first, second = task.batches["verify"]
    assert first.layout.roles == second.layout.roles[-5:]


def test_blank_lines_are_passed_over_and_several_foils_are_kept(tmp_path: Path) -> None:
    task = build(tmp_path, b"", line_of(0, foils=[" CityB", " CityC"], split="select"), b"  ")
    assert task.batches["select"][0].foils.shape == (1, 1, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"counterfactual": "The capital of is"},
            "clean has 5 tokens and counterfactual 4, so their roles do not align",
        ),
        ({"counterfactual": "The capital of LandA is"}, "the same prompt"),
        ({"answer": " CityAB"}, r"the answer ' CityAB' is 7 tokens .*expected one"),
        ({"answer": " CityB"}, "the answer ' CityB' is also a foil"),
        ({"answer": 5}, "'answer' must be a text that is not empty, not 5"),
        ({"clean": ""}, "'clean' must be a text that is not empty"),
        ({"foils": []}, "'foils' must be a list of texts that is not empty"),
        ({"foils": [""]}, "a foil must be a text that is not empty"),
        ({"roles": ["a", "b"]}, "2 roles for 5 tokens, so roles do not align"),
        ({"roles": ["a", "b", "a", "d", "e"]}, "the role 'a' names two positions"),
        ({"roles": ["a", "b", "c", "d", "e f"]}, "'e f' cannot be the name of a role"),
        ({"marks": {"x": "LandZ"}}, "'LandZ' occurs 0 times"),
        ({"marks": {"x": "capi"}}, "'capi' does not begin and end where tokens do"),
        ({"split": "test"}, "there is no split 'test'"),
        ({"answr": " CityA"}, "unknown field 'answr'"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"line 2: .*{message}"):
        build(tmp_path, line_of(3), line_of(0, **changes))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"clean": "The capital', "line 2: not JSON"),
        (b'["a"]', "line 2: not a JSON object"),
        (b'{"clean": "a"}', "line 2: lacks counterfactual, answer, foils"),
        (b'{"clean": "caf\xe9"}', "line 2: not UTF-8 at byte 14"),
        (b"[" * 200_000, "line 2: not JSON"),
    ],
)
def test_a_broken_line_is_refused_with_its_number(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build(tmp_path, line_of(0), data)


def test_a_line_of_ten_megabytes_is_refused_by_its_size_without_being_read(tmp_path: Path) -> None:
    config = write(tmp_path, line_of(0), b'{"clean": "' + b"x" * 10_000_000 + b'"}', line_of(1))
    with pytest.raises(InvalidInputError, match="line 2 is longer than 1048576 bytes"):
        jsonl.build_jsonl(config, TOKENIZER)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="file of prompts is empty"):
        build(tmp_path, b"", b" ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot be read: No such file"):
        jsonl.build_jsonl(JsonlConfig(path=str(tmp_path / "none.jsonl")), TOKENIZER)


def test_a_file_that_changed_since_it_was_asked_for_is_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path, *(line_of(i) for i in range(9))).path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    jsonl.build_jsonl(JsonlConfig(path=str(path), digest=right), TOKENIZER)
    with pytest.raises(InvalidInputError, match=r"has digest .* expected was 000000000000"):
        jsonl.build_jsonl(JsonlConfig(path=str(path), digest="0" * 64), TOKENIZER)


def test_lines_of_one_group_in_two_splits_are_refused(tmp_path: Path) -> None:
    lines = [line_of(i, group="g", split=split) for i, split in enumerate(("ood", "verify"))]
    with pytest.raises(InvalidInputError, match="'g' ask for the splits 'ood' and 'verify'"):
        build(tmp_path, *lines)
