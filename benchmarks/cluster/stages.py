"""Two small stages that cost what their config says: work -> judge. Equal configs give equal bytes on any machine.

Each may wait, and may compute: the rounds of a hash chain in one thread. A run of `bench-work` alone is one of its own.
"""

# ruff: noqa: ARG001  # every stage function has the same three arguments

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hagd.artifacts.document import Document
from hagd.errors import InvalidInputError
from hagd.pipeline.contract import Config, Sharding, StageContext, StageSpec

Documents = Mapping[str, Document]
LOCAL: Final = frozenset({"journal"})
_FIELDS: Final = LOCAL | {"name", "rounds", "wait_seconds", "shards"}
_BLOCK: Final = bytes(range(256)) * 16


def resolve(config: Config) -> dict[str, Any]:
    """Accept `name`, `rounds`, `wait_seconds`, `shards`, and `journal`, a file that gets a line at both ends."""
    if unknown := sorted(set(config) - _FIELDS):
        raise InvalidInputError(f"unknown settings: {', '.join(unknown)}", f"known are {', '.join(sorted(_FIELDS))}")
    return dict(config)


def chain(name: str, rounds: int) -> str:
    """Compute for about `rounds` times three microseconds, in one thread; give the digest at the end of the chain."""
    link = name.encode()
    for _ in range(rounds):
        link = hashlib.sha256(link + _BLOCK).digest()
    return link.hex()


def work(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Wait and compute as the config says."""
    note(config, "begin")
    time.sleep(config.get("wait_seconds", 0.0))
    digest = chain(str(config["name"]), config.get("rounds", 0))
    context.progress(1, 1, "worked")
    note(config, "end")
    return {"work": _document(digest)}


def split(config: Config) -> list[Config]:
    """Give each shard the whole work under a name of its own."""
    own = {name: value for name, value in config.items() if name not in ("shards", "name")}
    return [{**own, "name": f"{config['name']}-{number}"} for number in range(config.get("shards", 1))]


def join(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Hash what the shards gave, in their order."""
    parts = [document.content["digest"] for role, document in sorted(inputs.items()) if role.startswith("work/")]
    return {"work": _document(chain("".join(parts), 1))}


def judge(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Verify whatever it is given."""
    return {"verdict": _document(chain(inputs["work"].content["digest"], config.get("rounds", 0)))}


def note(config: Config, what: str) -> None:
    """Leave a line `what name process seconds` in the journal, on a clock that all processes of the machine share."""
    if "journal" in config:
        line = f"{what} {config['name']} {os.getpid()} {time.monotonic()}\n"
        with Path(config["journal"]).open("a") as stream:
            stream.write(line)


def _document(digest: str) -> Document:
    return Document({"data": {"verdict": "verified"}, "digest": digest})


_HERE: Final = "benchmarks.cluster.stages"
WORK: Final = StageSpec(
    "bench-work",
    1,
    (),
    ("work",),
    f"{_HERE}:work",
    resolve,
    LOCAL,
    title="Work",
    sharding=Sharding(split, f"{_HERE}:work", ("work",), f"{_HERE}:join"),
)
JUDGE: Final = StageSpec("bench-judge", 1, ("work",), ("verdict",), f"{_HERE}:judge", resolve, LOCAL, title="Judge")
STAGES: Final[Mapping[str, StageSpec]] = {spec.id: spec for spec in (WORK, JUDGE)}
ENTRY_POINTS: Final[Mapping[str, str]] = {WORK.id: f"{_HERE}:WORK", JUDGE.id: f"{_HERE}:JUDGE"}
"""By stage id, where its spec is found."""
