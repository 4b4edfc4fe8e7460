"""Event files, read back by TensorBoard's own reader."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from hagd.artifacts.document import Document
from hagd.dictionaries.history import history_to_document
from hagd.errors import StoreFullError, UsageError
from hagd.extraction import event_files
from hagd.extraction.event_files import require_writer, write_event_files
from hagd.extraction.opened import OpenRun
from unit.extraction.test_training_report import LAYERS, history, metrics


@dataclass
class _Run:
    """What is read of an opened run."""

    state: Any

    def document(self, role: str) -> Document:
        assert role == "training"
        return history_to_document(history())

    def data(self, role: str) -> dict[str, Any]:
        assert role == "dictionaries"
        return {"metrics": metrics()}


RUN = cast("OpenRun", _Run(SimpleNamespace(run_id="0123456789abcdef")))


def test_tensorboard_reads_every_point_of_every_curve(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    written = write_event_files(RUN, tmp_path / "board")
    assert written == tmp_path / "board" / "0123456789ab"
    found = EventAccumulator(str(written))
    found.Reload()
    names = ("fvu", "l0", "dead_share", "tokens_per_second", "held_out_fvu")
    by_layer = {f"{name}/layer_{layer}" for name in names for layer in LAYERS}
    assert set(found.Tags()["scalars"]) == by_layer | {"kl_nats"}
    together = [(event.step, event.wall_time, event.value) for event in found.Scalars("kl_nats")]
    assert together == [(6000, 12.0, 0.5), (7000, 14.0, 0.25)]
    events = found.Scalars("fvu/layer_3")
    assert [event.step for event in events] == [1000 * number for number in range(1, 8)]
    assert [event.value for event in events] == pytest.approx((0.2 / np.arange(1, 8)).tolist())
    assert [event.wall_time for event in events] == [2.0 * number for number in range(1, 8)]
    (measured,) = found.Scalars("held_out_fvu/layer_4")
    assert (measured.step, measured.value) == (7000, 0.375)


def test_a_run_is_written_once_and_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_full(*_: Any) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(event_files, "_write", run_full)
        with pytest.raises(StoreFullError):
            write_event_files(RUN, tmp_path)
    assert list(tmp_path.iterdir()) == []
    first = sorted(write_event_files(RUN, tmp_path).iterdir())
    assert sorted(write_event_files(RUN, tmp_path).iterdir()) == first
    assert len(first) == 1


def test_a_missing_writer_is_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    require_writer()
    monkeypatch.setattr(event_files, "_WRITER", "no_such_package")
    with pytest.raises(UsageError) as refused:
        require_writer()
    assert "hagd[tensorboard]" in str(refused.value.hint)


def test_writing_does_not_wait_for_torch(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from unit.extraction.test_event_files import RUN, write_event_files\n"
        "write_event_files(RUN, pathlib.Path(sys.argv[1]))\n"
        "assert 'tensorboard' in sys.modules; assert 'torch' not in sys.modules"
    )
    tests = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=tests, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
