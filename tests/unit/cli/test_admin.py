"""`hagd admin topics create` as an operator meets it."""

import json
import secrets

import pytest

from hagd.cli.app import run

# The broker may be an old one, with the topics of earlier tests.
STAGE = f"toy-{secrets.token_hex(4)}"
TOY = ["--stage", STAGE, "--replication", "1", "--min-insync", "1", "--partitions", "2"]


@pytest.mark.kafka
@pytest.mark.servers
@pytest.mark.xdist_group("kafka")
def test_topics_are_made_and_told_as_json_and_as_a_table(
    kafka_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["admin", "topics", "create", "--servers", kafka_address, *TOY, "--partitions-of", f"{STAGE}=3"]
    assert run([*command, "--json"]) in (0, 1)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["kind"]) == ("hagd.cli/v1", "topics")
    made = {topic["name"]: topic for topic in answer["data"]}
    assert made[f"hagd.{STAGE}.requested.v1"] == {
        "name": f"hagd.{STAGE}.requested.v1",
        "action": "made",
        "partitions": 3,
        "weaknesses": [],
    }
    run(command)
    assert f"hagd.{STAGE}.requested.v1" in capsys.readouterr().out


@pytest.mark.kafka
@pytest.mark.servers
@pytest.mark.xdist_group("kafka")
def test_a_weaker_topic_is_a_failure_with_the_reason(kafka_address: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["admin", "topics", "create", "--servers", kafka_address, *TOY]
    run(command)
    capsys.readouterr()
    assert run([*command, "--partitions-of", f"{STAGE}=7"]) == 1
    told = capsys.readouterr()
    assert "not 7" in told.out
    assert "hint: alter those topics" in told.err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--servers", "127.0.0.1:1"], 4, "does not answer"),
        (["--servers", "127.0.0.1:1", "--partitions-of", "x"], 2, "cannot read 'x'"),
        (["--servers", "127.0.0.1:1", "--min-insync", "4"], 2, "cannot be promised"),
        ([], 2, "no Kafka servers were given"),
    ],
)
def test_what_cannot_be_is_an_error_with_its_kind(
    options: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HAGD_KAFKA_SERVERS", raising=False)
    assert run(["admin", "topics", "create", "--json", "--stage", STAGE, *options]) == code
    assert message in json.loads(capsys.readouterr().out)["error"]["message"]
