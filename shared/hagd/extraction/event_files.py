"""Curves of a training as event files, which TensorBoard shows. Its package writes them and comes with an extra."""

import contextlib
import shutil
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from hagd.artifacts.filesystem import storage_error
from hagd.dictionaries.history import MEASURES, TrainingHistory, history_from_document
from hagd.errors import UsageError
from hagd.extraction.opened import OpenRun
from hagd.extraction.roles import DICTIONARIES, TRAINING

_WRITER: Final = "tensorboard"
_ID_LETTERS: Final = 12


def require_writer() -> None:
    """Check that event files can be written, before hours are spent.

    Raises:
        UsageError: the package that writes them is not installed.
    """
    if find_spec(_WRITER) is None:
        raise UsageError(f"{_WRITER} is not installed, which writes its files", "pip install 'hagd[tensorboard]'")


def write_event_files(run: OpenRun, folder: Path) -> Path:
    """Write the curves of a run that trained on text into a folder of its own inside `folder`, whole or not at all.

    Steps are tokens; the time of a point is what training had taken by then. What is there already is left as it is:
    the same run has the same curves.

    Raises:
        RunError: the run has no dictionaries yet.
        CorruptArtifactError: what it made is damaged.
        StoreFullError, UnavailableError: the files cannot be written.
    """
    history = history_from_document(run.document(TRAINING))
    held_out = {layer["layer"]: layer["fvu"] for layer in run.data(DICTIONARIES)["metrics"]["layers"]}
    target = folder / run.state.run_id[:_ID_LETTERS]
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
        try:
            _write(history, held_out, fresh)
            fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise storage_error(error, target) from error
    return target


def _write(history: TrainingHistory, held_out: dict[int, float], folder: Path) -> None:
    # An extra. This writer of it, which torch uses too, loads neither torch nor tensorflow.
    from tensorboard.summary.writer.event_file_writer import EventFileWriter  # noqa: PLC0415

    # Generated from protobuf when they are loaded, so no type checker knows what is in them.
    events: Any = import_module("tensorboard.compat.proto.event_pb2")
    summaries: Any = import_module("tensorboard.compat.proto.summary_pb2")

    def scalar(tag: str, tokens: int, seconds: float, value: float) -> Any:
        summary = summaries.Summary(value=[summaries.Summary.Value(tag=tag, simple_value=value)])
        return events.Event(step=tokens, wall_time=seconds, summary=summary)

    curves = {name: getattr(history, name) for name in MEASURES}
    curves["tokens_per_second"] = history.tokens_per_second()
    writer = EventFileWriter(str(folder))
    with contextlib.closing(writer):
        for place, layer in enumerate(history.layers):
            times = list(zip(history.tokens.tolist(), history.seconds[:, place].tolist(), strict=True))
            for name, values in curves.items():
                for (tokens, seconds), value in zip(times, values[:, place].tolist(), strict=True):
                    writer.add_event(scalar(f"{name}/layer_{layer}", tokens, seconds, value))
            writer.add_event(scalar(f"held_out_fvu/layer_{layer}", *times[-1], held_out[layer]))
        # All layers learn together then, so their clocks are the same.
        for place, value in enumerate(history.kl_nats.tolist(), start=len(history.tokens) - len(history.kl_nats)):
            tokens, seconds = int(history.tokens[place]), float(history.seconds[place, 0])
            writer.add_event(scalar("kl_nats", tokens, seconds, value))
