"""A soak of a minute, and the auditor shown what it must not let pass."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from benchmarks.soak.accounts import at_once, computations, lapses
from benchmarks.soak.auditor import audit, run_id_of
from benchmarks.soak.evidence import Blob, Evidence

from servers.places import has_kafka, has_program

ROOT = Path(__file__).parents[2]
SMALL = ["--small", "--runs", "24", "--extractions", "0", "--minutes", "0.7", "--patience", "1.5"]


def soak(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    paths = [os.environ.get("PYTHONPATH", ""), str(ROOT), str(ROOT / "tools")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-m", "benchmarks.soak", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment)


@pytest.mark.kafka
@pytest.mark.s3
@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.xdist_group("kafka")
def test_a_small_soak_loses_nothing_and_leaves_no_process(tmp_path: Path) -> None:
    require_servers()
    process = soak(tmp_path, *SMALL, "--seed", "7")
    assert process.wait(600) == 0

    written = json.loads((tmp_path / "build" / "soak.json").read_text())
    assert written["details"]["wrong"] == {}
    assert left_in(tmp_path) == []


@pytest.mark.kafka
@pytest.mark.s3
@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.xdist_group("kafka")
def test_an_interrupted_soak_leaves_no_process(tmp_path: Path) -> None:
    require_servers()
    process = soak(tmp_path, *SMALL, "--seed", "11")
    journal = tmp_path / "build" / "soak" / "journal.jsonl"
    while not journal.exists() or '"computed"' not in journal.read_text():
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)

    assert process.wait(120) == 130
    assert left_in(tmp_path) == []


def require_servers() -> None:
    if not has_kafka() or not has_program("minio") or shutil.which("java") is None:
        reason = "no Kafka or no MinIO: run `make servers`"
        if os.environ.get("HAGD_REQUIRE_SERVERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def left_in(folder: Path) -> list[str]:
    """Give the processes whose working directory, arguments or variables name a folder."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            about = " ".join([process.cwd(), *process.cmdline(), *process.environ().values()])
        except psutil.Error:
            continue
        if str(folder) in about and process.pid != os.getpid():
            found.append(" ".join(process.cmdline()))
    return found


# The auditor

RUN = run_id_of("me", "first")
KEY, DIGEST, OTHER = "a" * 64, "b" * 64, "c" * 64
TOPIC = "hagd.soak-train.finished.v1"


def reference(digest: str) -> dict[str, Any]:
    return {"sha256": digest, "bytes": 7, "media_type": "application/json"}


def event(identity: str, **data: Any) -> bytes:
    return json.dumps({"id": identity, "run_id": RUN, "generation": 0, "data": data}).encode()


def evidence() -> Evidence:
    """Give what one run leaves that went well."""
    done = {"task_key": KEY, "outputs": {"evidence": reference(DIGEST)}, "status": "done"}
    objects = {
        f"runs/{RUN}/g0000/opened": {},
        f"runs/{RUN}/g0000/00-soak-train.done": done,
        f"runs/{RUN}/g0000/outcome": {"status": "verified", "failure": None},
        f"manifests/aa/{KEY}/0000": {"outputs": done["outputs"], "seconds": 0.5},
    }
    encoded = {key: json.dumps(value).encode() for key, value in objects.items()}
    # The same event twice is one event.
    topics = {TOPIC: [event("1", **done), event("1", **done)]}
    return Evidence(topics, encoded, {DIGEST: Blob(DIGEST, 7)})


def wrong(found: Evidence, poison: list[dict[str, str]] | None = None) -> dict[str, int]:
    expected = {
        "runs": [{"principal": "me", "request_id": "first", "content": "c", "cancelled": False, "topic": TOPIC}],
        "poison": poison or [],
        "undisturbed": {"c": {"status": "verified", "outputs": {"evidence": DIGEST}}},
    }
    return {rule: len(lines) for rule, lines in audit(found, expected).wrong.items()}


def without(found: Evidence, key: str) -> Evidence:
    return replace(found, objects={name: data for name, data in found.objects.items() if name != key})


def test_the_auditor_finds_nothing_where_nothing_is_wrong() -> None:
    assert wrong(evidence()) == {}


def test_the_auditor_misses_an_outcome() -> None:
    assert wrong(without(evidence(), f"runs/{RUN}/g0000/outcome")) == {"outcome": 1}


def test_the_auditor_finds_a_second_event_that_ends_the_run() -> None:
    told = evidence().topics[TOPIC]
    assert wrong(replace(evidence(), topics={TOPIC: [*told, event("2")]})) == {"outcome": 1}


def test_the_auditor_finds_a_failure_that_was_told_of_a_verified_run() -> None:
    topics = evidence().topics | {"hagd.run.failed.v1": [event("3")]}
    assert wrong(replace(evidence(), topics=topics)) == {"outcome": 1}


def test_the_auditor_finds_other_bytes_than_those_of_an_undisturbed_run() -> None:
    found = evidence()
    key = f"runs/{RUN}/g0000/00-soak-train.done"
    changed = found.objects[key].replace(DIGEST.encode(), OTHER.encode())
    assert wrong(replace(found, objects=found.objects | {key: changed})) == {"digest": 1}


def test_the_auditor_finds_a_manifest_without_its_blob_and_one_with_a_damaged_blob() -> None:
    assert wrong(replace(evidence(), blobs={})) == {"manifest": 1}
    assert wrong(replace(evidence(), blobs={DIGEST: Blob(OTHER, 7)})) == {"manifest": 1}


def test_the_auditor_finds_a_key_with_two_results() -> None:
    found = evidence()
    second = found.objects[f"manifests/aa/{KEY}/0000"].replace(DIGEST.encode(), OTHER.encode())
    objects = found.objects | {f"manifests/aa/{KEY}/0001": second}
    blobs = found.blobs | {OTHER: Blob(OTHER, 7)}
    assert wrong(replace(found, objects=objects, blobs=blobs)) == {"second": 1}


def test_the_auditor_finds_poison_that_was_lost_and_letters_that_are_no_poison() -> None:
    lost = {"kind": "no event", "topic": "t", "digest": DIGEST, "run_id": "d" * 64}
    assert wrong(evidence(), [lost]) == {"poison": 1}
    topics = evidence().topics | {"hagd.soak-sum.dead.v1": [event("4", failure={"kind": "internal"})]}
    assert wrong(replace(evidence(), topics=topics)) == {"letter": 1}
    topics = evidence().topics | {"hagd.soak-sum.requested.v1.unreadable": [b"what"]}
    assert wrong(replace(evidence(), topics=topics)) == {"letter": 1}


# The accounts


def attempt(epoch: int, began: float, ended: float | None = None, died: float | None = None) -> list[dict[str, Any]]:
    named = {"pid": epoch, "computation": str(epoch)}
    lines: list[dict[str, Any]] = [{"what": "began", "at": began, **named, "stage": "s", "key": KEY, "epoch": epoch}]
    if ended is not None:
        lines.append({"what": "computed", "at": ended, **named, "seconds": ended - began})
    if died is not None:
        lines.append({"what": "died", "at": died, "pid": 0, "process": epoch})
    return lines


def saved(epoch: int, step: int, at: float) -> dict[str, Any]:
    return {"what": "checkpoint", "at": at, "pid": 0, "key": KEY, "epoch": epoch, "step": step, "saved": at}


@pytest.mark.parametrize(
    ("checkpoints", "wasted"),
    [
        ([], 10.0),
        ([saved(1, 20, 4.0), saved(1, 40, 8.0)], 2.0),
        # The second attempt went on behind it, or began anew.
        ([saved(1, 40, 8.0), saved(2, 60, 23.0)], 2.0),
        ([saved(1, 40, 8.0), saved(2, 20, 23.0)], 10.0),
        ([saved(1, 40, 8.0), saved(2, 40, 23.0)], 10.0),
    ],
)
def test_what_an_attempt_saved_is_kept_where_the_next_goes_on_from_there(
    checkpoints: list[dict[str, Any]], wasted: float
) -> None:
    journal = [*attempt(1, 0.0, died=10.0), *attempt(2, 20.0, ended=25.0), *checkpoints]
    found = computations(journal, {KEY: [5.0]})
    assert [(it.seconds, it.wasted) for it in found] == [(10.0, wasted), (5.0, 0.0)]


def test_a_checkpoint_that_nobody_went_on_from_keeps_nothing() -> None:
    journal = [*attempt(1, 0.0, died=10.0), saved(1, 40, 8.0)]
    assert [(it.seconds, it.wasted) for it in computations(journal, {})] == [(10.0, 10.0)]


def test_a_computation_beside_another_is_due_to_a_lease_that_lapsed() -> None:
    one_after_another = [*attempt(1, 0.0, ended=5.0), *attempt(2, 6.0, ended=11.0)]
    beside = [*attempt(1, 0.0, ended=25.0), *attempt(2, 20.0, ended=25.0)]
    assert at_once(computations(one_after_another, {})) == 0
    assert at_once(computations(beside, {})) == 1
    assert lapses(beside) == 0, "without a lapse the soak fails"
    lapsed = [
        {"what": "fault", "point": "lease-takeover", "pid": 1, "at": 1.0},
        {"what": "stopped", "process": 1, "at": 3.0},
        {"what": "restarted", "server": "store", "at": 7.0},
    ]
    others = [{"what": "restarted", "server": "broker"}, {"what": "fault", "point": "before-ack"}, {"what": "killed"}]
    assert lapses([*beside, *lapsed, *others]) == 3
