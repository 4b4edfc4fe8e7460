"""What a stage gives up is kept with its reason, and goes on once somebody replays it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hagd.cli.app import run as hagd
from hagd.errors import RunError, UnknownNameError
from hagd.events.log import UnreadableRecord
from hagd.events.sqlite import SqliteEventLog
from hagd.events.topics import ENTRY_STAGE, LANES, requested_topic
from hagd.execution.inline import InlineExecutor
from hagd.pipeline.dead_letters import DeadLetter, dead_letters, find_dead_letter, replay
from hagd.pipeline.embedded import EmbeddedRuntime
from unit.pipeline.test_loop import World, request, trouble
from unit.pipeline.toy_stages import STAGES


def letters(world: World) -> list[DeadLetter]:
    return list(dead_letters(world.log, world.runs, [ENTRY_STAGE, *STAGES]))


def failed(tmp_path: Path) -> tuple[World, str]:
    world = World()
    run_id = world.submit("doomed", trouble=trouble(tmp_path, "gate", "gate"))
    world.drive()
    return world, run_id


def test_a_request_that_fails_for_good_is_kept_with_its_error(tmp_path: Path) -> None:
    world, run_id = failed(tmp_path)
    (letter,) = letters(world)
    assert letter.envelope.run_id == run_id
    assert letter.failure.kind == "accuracy-gate"
    assert (letter.attempts, letter.replayed) == (1, False)
    assert world.runs.get(run_id).outcome is not None


def test_a_request_that_succeeds_leaves_no_letter() -> None:
    world = World()
    world.submit("fine")
    world.drive()
    assert letters(world) == []


def test_a_replay_opens_the_run_again_once_and_passes_over_what_is_finished(tmp_path: Path) -> None:
    world, run_id = failed(tmp_path)
    (letter,) = letters(world)
    before = list(world.executor.tasks)
    assert replay(letter, world.runs, world.log) == 1
    world.drive()
    again = world.executor.tasks[len(before) :]
    assert again == before[-1:], "only the stage that had failed is computed again"
    assert world.runs.outcome(run_id, 1) is not None
    old, new = letters(world)
    assert (old.replayed, new.replayed) == (True, False)
    with pytest.raises(RunError, match="gone on"):
        replay(old, world.runs, world.log)


def test_a_letter_of_a_deleted_run_waits_for_nobody(tmp_path: Path) -> None:
    world, run_id = failed(tmp_path)
    world.runs.delete(run_id)
    (letter,) = letters(world)
    assert letter.replayed
    with pytest.raises(RunError, match="was deleted"):
        replay(letter, world.runs, world.log)


def test_an_id_that_fits_no_letter_is_refused(tmp_path: Path) -> None:
    world, _ = failed(tmp_path)
    with pytest.raises(UnknownNameError, match="0 dead letters"):
        find_dead_letter(world.log, world.runs, STAGES, "zz")
    assert find_dead_letter(world.log, world.runs, STAGES, "").failure.kind == "accuracy-gate"


def test_a_letter_that_the_log_holds_twice_is_one(tmp_path: Path) -> None:
    world, run_id = failed(tmp_path)
    (letter,) = letters(world)
    # As in a log over a network, which cannot tell that it holds an event already.
    entry = next(it for it in world.log._entries if it.record.envelope.id == letter.id)
    world.log._entries.append(replace(entry, record=replace(entry.record, offset=len(world.log._entries) + 1)))
    assert letters(world) == [letter]
    found = find_dead_letter(world.log, world.runs, STAGES, letter.id)
    assert replay(found, world.runs, world.log) == 1
    assert world.runs.generation(run_id) == 1


def test_the_command_line_lists_what_was_put_away_without_harm_to_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    with EmbeddedRuntime(root, executor=InlineExecutor(), stages=STAGES) as runtime:
        runtime.run(request("fine"))
    asked: list[str] = []

    def unreadable(self: SqliteEventLog, topic: str) -> list[UnreadableRecord]:
        asked.append(topic)
        entry = topic == requested_topic(ENTRY_STAGE)
        own = [("ce_id", b"7")]
        return [UnreadableRecord(f"{topic}/0/5", "not an event", b"\x1b[2J" * 99, own, 3.0)] if entry else []

    monkeypatch.setattr(SqliteEventLog, "unreadable", unreadable)
    assert hagd(["dlq", "list", str(root), "--unreadable", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)["data"]
    assert (record["bytes"], record["reason"], record["headers"]) == (396, "not an event", {"ce_id": "7"})
    assert record["start"].startswith(r"\x1b[2J")
    assert set(asked) >= {requested_topic(stage, lane) for stage in (ENTRY_STAGE, *STAGES) for lane in LANES}
    assert hagd(["dlq", "list", str(root), "--unreadable"]) == 0
    shown = capsys.readouterr().out
    assert "not an event" in shown
    assert "\x1b" not in shown


def test_the_command_line_lists_shows_and_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "run"
    with EmbeddedRuntime(root, executor=InlineExecutor(), stages=STAGES) as runtime:
        runtime.run(request("doomed", trouble=trouble(tmp_path, "gate")))
    assert hagd(["dlq", "list", str(root), "--json"]) == 0
    (letter,) = json.loads(capsys.readouterr().out)["data"]
    assert letter["error"]["kind"] == "accuracy-gate"
    assert hagd(["dlq", "show", letter["id"][:8], str(root)]) == 0
    assert "accuracy-gate" in capsys.readouterr().out
    assert hagd(["dlq", "replay", letter["id"][:8], str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == {"run_id": letter["run_id"], "generation": 1}
    log = SqliteEventLog(root / "events.sqlite")
    assert log.claim(["hagd.extraction.requested.v1"], 1.0) is not None, "the services find the new generation"
    log.close()
    assert hagd(["dlq", "list", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == []
