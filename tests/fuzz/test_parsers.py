"""Random bytes, and valid messages with a little broken, raise nothing but errors of the tree."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.parsers import TARGETS, holds
from hagd.artifacts.reference import ArtifactRef
from hagd.events.envelope import Envelope
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.state import Outcome, RunState, StageState
from hagd.rpc.codec import request_to_proto, run_to_proto
from real_servers import give_up

REF = ArtifactRef("ab" * 32, 1013, "application/json")
PLAN = (PlanEntry("subject", 1, {"task": {"modulus": 113}, "share": 0.5}), PlanEntry("transcoder", 7))
REQUEST = Request("ada", "first.try", PLAN, {"model": REF}, {"command": "hagd extract"})
STAGES = (StageState("subject", "done", "cd" * 32, {"task": REF}, 2.5, 4096), StageState("transcoder", "running"))
VALID: dict[str, bytes] = {
    "envelope": Envelope("ef" * 32, "01" * 32, "somebody", 3, 1, PLAN, {"model": REF}, {"note": "é"}).encode(),
    "submission": request_to_proto(REQUEST).SerializeToString(),
    "run": run_to_proto(
        RunState("ef" * 32, REQUEST, 3, STAGES, Outcome("verified", "transcoder"), False)
    ).SerializeToString(),
}
ITERATIONS = 10_000

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=7),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=7,
)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut, double or overwrite up to seven places."""
    for _ in range(draw(st.integers(1, 7))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 17)))
        data = data[:start] + draw(st.binary(max_size=9) | st.just(2 * data[start:end])) + data[end:]
    return data


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """Give a valid event in which some values, however deep, were replaced by others."""
    value: Any = json.loads(VALID["envelope"])
    for _ in range(draw(st.integers(1, 3))):
        place: Any = value
        while True:
            names = list(place) if isinstance(place, dict) else list(range(len(place)))
            name = draw(st.sampled_from(names))
            if not isinstance(place[name], dict | list) or not place[name] or draw(st.booleans()):
                place[name] = draw(json_values)
                break
            place = place[name]
    return json.dumps(value, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


@pytest.mark.parametrize("target", TARGETS)
@settings(deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(target: str, data: bytes) -> None:
    holds(target, data)


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=300, deadline=None)
@given(draws=st.data())
def test_a_valid_message_with_bytes_changed_is_read_or_refused(target: str, draws: st.DataObject) -> None:
    holds(target, draws.draw(mutated(VALID[target])))


@settings(max_examples=300, deadline=None)
@given(data=events())
def test_an_event_with_values_changed_is_read_or_refused(data: bytes) -> None:
    holds("envelope", data)


@settings(max_examples=300, deadline=None)
@given(config=json_values | st.text(), stage=st.text(max_size=9), version=st.integers(0, 2**31 - 1))
def test_a_request_with_any_config_is_read_or_refused(config: Any, stage: str, version: int) -> None:
    message = request_to_proto(REQUEST)
    entry = message.plan.entries[0]
    text = config if isinstance(config, str) else json.dumps(config)
    entry.config_json, entry.semantics_version = text.encode(errors="replace").decode(), version
    entry.stage_id = stage.encode(errors="replace").decode()
    holds("submission", message.SerializeToString())


@pytest.mark.parametrize("text", ["[" * 10**5, "1e999", str(2**64), '"\\ud800"', '{"a": 1' + "0" * 5000 + "}"])
def test_numbers_and_text_that_cannot_be_kept_are_refused_in_both(text: str) -> None:
    message = request_to_proto(REQUEST)
    message.plan.entries[0].config_json = text if text.startswith("{") else f'{{"a": {text}}}'
    holds("submission", message.SerializeToString())
    holds("envelope", VALID["envelope"].replace(b"113", text.encode()))


@pytest.mark.parametrize("target", TARGETS)
def test_a_valid_message_passes(target: str) -> None:
    TARGETS[target](VALID[target])


@pytest.mark.servers
@pytest.mark.parametrize("target", TARGETS)
def test_a_fuzzer_that_watches_the_code_finds_nothing(target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        give_up("no atheris: it is built for Linux alone")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "valid").write_bytes(VALID[target])
    program = Path(__file__).with_name("target.py")
    command = [sys.executable, str(program), target, str(corpus), f"-runs={ITERATIONS}", "-seed=7", "-max_len=4096"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {ITERATIONS} runs" in done.stderr
