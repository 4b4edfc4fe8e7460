"""The shape of answers: what programs parse and what people read."""

import json

import pytest

from hagd.cli.app import run
from hagd.cli.output import error_to_json, write_fields, write_json, write_table
from hagd.errors import AccuracyGateError, HagdError, UnavailableError, UsageError


def test_an_answer_names_its_schema_and_kind(capsys: pytest.CaptureFixture[str]) -> None:
    write_json("runs", [{"a": 1}])
    assert json.loads(capsys.readouterr().out) == {"schema": "hagd.cli/v1", "kind": "runs", "data": [{"a": 1}]}


def test_a_number_that_json_lacks_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json("x", float("nan"))


def test_an_error_has_kind_message_hint_and_docs() -> None:
    assert error_to_json(AccuracyGateError("3 of 7", "train longer"))["error"] == {
        "kind": "accuracy-gate",
        "message": "3 of 7",
        "hint": "train longer",
        "docs": "docs/errors/index.md#accuracy-gate",
    }


def test_numbers_stand_right_and_words_left(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(["name", "n"], [["a", 7], ["bcdef", 113]])
    assert capsys.readouterr().out == "name     n\na        7\nbcdef  113\n"


def test_what_is_not_there_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    write_fields({"scope": None, "ok": True, "ci": [0.25, 0.5]})
    assert capsys.readouterr().out == "scope  -\nok     yes\nci     0.25 0.5\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [(HagdError("x"), 1), (UsageError("x"), 2), (UnavailableError("x"), 4), (KeyboardInterrupt(), 130)],
)
def test_every_error_leaves_with_its_own_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("hagd.pipeline.stages.find_stage", fail)
    assert run(["stages", "any"]) == code


def test_a_defect_is_told_as_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by 0")

    monkeypatch.setattr("hagd.pipeline.stages.find_stage", fail)
    assert run(["stages", "any", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], error["message"]) == ("internal", "ZeroDivisionError: by 0")


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dance", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "usage"


@pytest.mark.parametrize("group", [[], ["run"], ["circuit"]])
def test_a_bare_group_shows_its_help(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group) == 2
    said = capsys.readouterr()
    assert "Usage:" in said.out + said.err
    assert "error" not in said.err
