"""The processes of a group: the task's own, which is the first member, and others that it starts and that end with it.

    python -m hagd_transcoder.members
    in    {"rank": ..., "size": ..., "meeting": path, "run": "module:function", "config": ..., "inputs": [role, ...]}
    out   {"type": "ready"}   {"type": "failure", ...}

A member is spoken to in frames over its standard input and output until the group stands, and by the group from then
on. The end of its input ends it at once, whatever killed who started it.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

import numpy as np
import torch

from hagd.artifacts.document import Document
from hagd.errors import HagdError, WorkerDiedError
from hagd.execution.running import load_function
from hagd.execution.wire import Failure, error_of, failure_of, read_frame, write_frame
from hagd.pipeline.contract import Config, StageContext
from hagd.telemetry.logs import configure_logging
from hagd_transcoder.domain.group import ALONE, Group
from hagd_transcoder.gloo_group import GlooGroup

_LAST_WORDS_SECONDS: Final = 5.0
"""How long to wait for the reason why a member left."""
_PIECE_BYTES: Final = 1 << 24
_LOG: Final = logging.getLogger(__name__)

MemberFunction = Callable[[Mapping[str, Document], Config, StageContext, Group], object]
"""What a member does, with the inputs and the config of the task."""


class Together(NamedTuple):
    """What the task goes on with."""

    group: Group
    context: StageContext
    """That of the task; what it loads, all members load."""


@contextlib.contextmanager
def together(
    run: str, inputs: Mapping[str, Document], config: Config, context: StageContext, size: int
) -> Generator[Together]:
    """Let this process and others be a group; they share its CPU threads, and end with the block.

    Args:
        run: `module:function` of the `MemberFunction` that the others call.
        inputs: sent to them.
        config: sent to them.
        context: of the task.
        size: how many processes there are with this one.

    Raises:
        WorkerDiedError: one ended without an answer.
        HagdError: whatever one of them raised.
    """
    if size == 1:
        yield Together(ALONE, context)
        return
    threads = torch.get_num_threads()
    share = max(1, threads // size)
    with contextlib.ExitStack() as leaving:
        leaving.callback(torch.set_num_threads, threads)
        torch.set_num_threads(share)
        members: list[_Member] = []
        try:
            for rank in range(1, size):
                members.append(_Member(rank, share))
                leaving.callback(members[-1].end)
            group = _meet(members, {"run": run, "config": dict(config), "inputs": sorted(inputs)})
            for role in sorted(inputs):
                _spread(group, inputs[role])
            yield Together(group, _First(context, group))
        except WorkerDiedError as error:
            raise _reason(members, error) from error


def _meet(members: Sequence["_Member"], work: Mapping[str, Any]) -> GlooGroup:
    with tempfile.TemporaryDirectory(prefix="hagd-group-") as folder:
        path, size = Path(folder, "meeting"), len(members) + 1
        for member in members:
            member.tell({**work, "rank": member.rank, "size": size, "meeting": str(path)})
        for member in members:
            answer = member.hear()
            if answer is None:
                raise WorkerDiedError("a process of those that train together did not start")
            if answer["type"] == "failure":
                raise error_of(Failure.from_json(answer["failure"]))
        return GlooGroup.at(path, 0, size)


def _reason(members: Sequence["_Member"], error: WorkerDiedError) -> HagdError:
    """Give why a group broke: what a member told of, or how one ended that told nothing."""
    until = time.monotonic() + _LAST_WORDS_SECONDS
    ends = (member.ending(max(0.0, until - time.monotonic())) for member in members)
    return next((end for end in ends if end is not None), error)


class _Member:
    """Another process of the group, as the first sees it."""

    def __init__(self, rank: int, threads: int) -> None:
        self.rank = rank
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        # An executor may have added to the path of this process while it ran.
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hagd_transcoder.members"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **limits, "PYTHONPATH": path},
            start_new_session=True,
        )
        self._stdin = cast(BinaryIO, self._process.stdin)
        self._stdout = cast(BinaryIO, self._process.stdout)

    def tell(self, message: Mapping[str, Any]) -> None:
        # That it has gone is noticed by its silence.
        with contextlib.suppress(BrokenPipeError):
            write_frame(self._stdin, message)

    def hear(self) -> dict[str, Any] | None:
        return read_frame(self._stdout)

    def ending(self, seconds: float) -> HagdError | None:
        """Give how it ended, if it does within so many seconds; None where it goes on, or only saw another end."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        while (told := self.hear()) is not None:
            if told["type"] == "failure":
                error = error_of(Failure.from_json(told["failure"]))
                return None if isinstance(error, WorkerDiedError) else error
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        return WorkerDiedError(
            f"process {self.rank} of those that train together {how}", "a kill from outside is often a lack of memory"
        )

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()


class _First:
    """The context of the task; a checkpoint that is loaded goes to all members."""

    def __init__(self, context: StageContext, group: Group) -> None:
        self._context, self._group = context, group

    def progress(self, done: float, total: float, message: str) -> None:
        self._context.progress(done, total, message)

    def save_checkpoint(self, step: int, state: Document) -> None:
        self._context.save_checkpoint(step, state)

    def load_checkpoint(self) -> tuple[int, Document] | None:
        found = self._context.load_checkpoint()
        step, state = found or (-1, Document({}))
        _spread(self._group, Document({"step": step, "content": dict(state.content)}, state.tensors))
        return found

    def scratch_folder(self) -> Path:
        return self._context.scratch_folder()

    def device(self, rank: int = 0, world_size: int = 1) -> str:  # noqa: ARG002
        """Give the one over which members speak."""
        return "cpu"


class _Other:
    """The context of another member: it tells nobody and keeps nothing."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def progress(self, done: float, total: float, message: str) -> None:
        """Leave that to the first."""

    def save_checkpoint(self, step: int, state: Document) -> None:
        """Leave that to the first."""

    def load_checkpoint(self) -> tuple[int, Document] | None:
        found = _receive(self._group)
        step = int(found.content["step"])
        return None if step < 0 else (step, Document(found.content["content"], found.tensors))

    def scratch_folder(self) -> Path:
        return Path(tempfile.gettempdir())

    def device(self, rank: int = 0, world_size: int = 1) -> str:  # noqa: ARG002
        """Give that of the first."""
        return "cpu"


def _spread(group: Group, document: Document) -> None:
    """Send a document to all other members."""
    arrays = [(name, np.ascontiguousarray(array)) for name, array in document.tensors.items()]
    shapes = [[name, array.dtype.name, list(array.shape)] for name, array in arrays]
    header = json.dumps({"content": dict(document.content), "tensors": shapes}).encode()
    group.spread_([torch.tensor([len(header)]), torch.frombuffer(bytearray(header), dtype=torch.uint8)])
    for _, array in arrays:
        for piece in _pieces(array):
            # Decoded arrays are read-only, and the group writes to what it is given.
            group.spread_([torch.from_numpy(piece.copy())])


def _receive(group: Group) -> Document:
    """Give what the first member has sent."""
    length = torch.zeros(1, dtype=torch.int64)
    group.spread_([length])
    header = torch.zeros(int(length), dtype=torch.uint8)
    group.spread_([header])
    described = json.loads(header.numpy().tobytes())
    arrays: dict[str, np.ndarray] = {}
    for name, dtype, shape in described["tensors"]:
        arrays[name] = np.empty(shape, dtype)
        for piece in _pieces(arrays[name]):
            group.spread_([torch.from_numpy(piece)])
    return Document(described["content"], arrays)


def _pieces(array: np.ndarray) -> Generator[np.ndarray]:
    """Give the bytes of an array, a part after the other, so that none of them is in memory twice for long."""
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, len(flat), _PIECE_BYTES):
        yield flat[start : start + _PIECE_BYTES]


def main() -> None:
    """Be a member until the work is done or the first member is gone."""
    outbox = cast(BinaryIO, os.fdopen(os.dup(sys.stdout.fileno()), "wb"))
    # What libraries print must not get among the frames.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    configure_logging(json_lines=True, service="worker")
    told = read_frame(sys.stdin.buffer)
    if told is None:
        return
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        function = cast(MemberFunction, load_function(told["run"]))
        write_frame(outbox, {"type": "ready"})
        _take_part(function, told)
    except Exception as error:
        if not isinstance(error, HagdError):
            _LOG.exception("a member of a group broke")
        write_frame(outbox, {"type": "failure", "failure": failure_of(error).to_json()})
        # Not by the end of the interpreter, which would wait for others that wait for this one.
        os._exit(1)
    os._exit(0)


def _take_part(function: MemberFunction, told: Mapping[str, Any]) -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    group = GlooGroup.at(Path(told["meeting"]), told["rank"], told["size"])
    inputs = {role: _receive(group) for role in told["inputs"]}
    function(inputs, told["config"], _Other(group), group)


def _end_with_input() -> None:
    while sys.stdin.buffer.read(1 << 16):
        pass
    # Not sys.exit: the main thread may be deep in a computation.
    os._exit(0)


if __name__ == "__main__":
    main()
