"""Log and store are opened and checked; who does not answer is waited for only when that is asked."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hagd.deployment import opening
from hagd.deployment.config import Places, S3Place
from hagd.deployment.opening import open_places
from hagd.errors import InvalidInputError, UnavailableError
from hagd.events.kafka.settings import KafkaSettings
from hagd.testing import ManualClock, MemoryEventLog, MemoryStore
from moto_server import Application, running_moto
from s3_stores import new_settings


@dataclass
class Late:
    """Answers from a moment on."""

    clock: ManualClock
    answers_at: float
    answer: Any
    asked_at: list[float] = field(default_factory=list[float])

    def __call__(self, *_: Any, **__: Any) -> Any:
        self.asked_at.append(self.clock.monotonic())
        if self.clock.monotonic() < self.answers_at:
            raise UnavailableError("nobody answers", "start it")
        return self.answer


def test_one_folder_holds_everything(tmp_path: Path) -> None:
    opened = open_places(Places(tmp_path / "root"), ["one"], routes=True)
    opened.log.close()
    assert (tmp_path / "root" / "events.sqlite").is_file()
    assert opened.store.location == f"file:{tmp_path / 'root' / 'store'}"
    assert opened.worker_log_path == tmp_path / "root" / "worker.log"


def test_without_a_folder_run_state_lies_with_the_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryEventLog()
    monkeypatch.setattr(opening, "_open_kafka", lambda *_: log)
    opened = open_places(Places(store=tmp_path / "shared", kafka=KafkaSettings("a:1")), ["one"], routes=True)
    assert opened.log is log
    assert opened.runs.store is opened.store


def test_a_bucket_and_a_log_in_a_folder_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    monkeypatch.setattr(opening, "open_s3", lambda *_, **__: store)
    opened = open_places(Places(tmp_path / "root", S3Place("s3:http://a:1/b")), ["one"], routes=True)
    opened.log.close()
    assert opened.store is opened.runs.store is store


def test_who_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(ManualClock(), 7.0, MemoryStore())
    monkeypatch.setattr(opening, "open_s3", late)
    with pytest.raises(UnavailableError, match="nobody answers"):
        open_places(Places(tmp_path, S3Place("s3:http://a:1/b")), ["one"], routes=True, clock=late.clock)
    assert late.asked_at == [0.0]


def test_who_answers_late_is_waited_for_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    store, log = Late(clock, 7.0, MemoryStore()), Late(clock, 9.0, MemoryEventLog())
    monkeypatch.setattr(opening, "open_s3", store)
    monkeypatch.setattr(opening, "_open_kafka", log)
    places = Places(store=S3Place("s3:http://a:1/b"), kafka=KafkaSettings("b:2"))

    def opened(seconds: float) -> opening.Opened:
        return open_places(places, ["one"], routes=True, wait=timedelta(seconds=seconds), clock=clock)

    with pytest.raises(UnavailableError):
        opened(5.0)
    assert clock.monotonic() == 5.0
    assert opened(5.0).log is log.answer
    assert clock.monotonic() == 9.0


def ignoring_conditions(application: Application) -> Application:
    def answer(environ: dict[str, Any], start: Any) -> Any:
        environ = {name: value for name, value in environ.items() if not name.startswith("HTTP_IF_")}
        return application(environ, start)

    return answer


def honest(application: Application) -> Application:
    return application


@pytest.mark.parametrize(("trouble", "refused"), [(honest, False), (ignoring_conditions, True)])
def test_a_store_that_ignores_the_conditions_of_writes_is_refused(
    trouble: Callable[[Application], Application], refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_moto(trouble) as server:
        monkeypatch.setenv("HAGD_S3_ACCESS_KEY", server.access_key)
        monkeypatch.setenv("HAGD_S3_SECRET_KEY", server.secret_key)
        places = Places(tmp_path / "root", S3Place(new_settings(server).location))
        if refused:
            with pytest.raises(InvalidInputError, match="does not keep to If-None-Match"):
                open_places(places, ["one"], routes=True)
            return
        opened = open_places(places, ["one"], routes=True)
        opened.log.close()
        assert opened.runs.list() == []
