"""Where a command works: in the folder that it is given, or else in the log and store that the services are set to."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hagd.errors import UsageError

if TYPE_CHECKING:
    from hagd.artifacts.leases import LeaseTable
    from hagd.artifacts.store import ArtifactStore
    from hagd.events.log import EventLog
    from hagd.pipeline.runs import RunStore
    from hagd.pipeline.stalled import StallCheck

FolderArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FOLDER]",
        help="The folder of a run, or of services; by default the log and store that services are set to.",
    ),
]
DeployedFlag = Annotated[
    bool, typer.Option("--deployed", help="In the log and store that the services are set to, in place of a folder.")
]


@dataclass(frozen=True)
class Place:
    """The log, the store and the runs of a folder or a cluster, opened. Nothing was made by opening them."""

    name: str
    """For a person to read."""
    root: Path | None
    """The folder, where there is one."""
    store: "ArtifactStore"
    runs: "RunStore"
    log: "EventLog"

    def leases(self) -> "LeaseTable":
        """Give the leases, to be read."""
        from hagd.artifacts.clock import SystemClock  # noqa: PLC0415
        from hagd.artifacts.leases import LeaseTable  # noqa: PLC0415

        return LeaseTable(self.store, SystemClock())

    def stall_check(self) -> "StallCheck":
        """Give what finds stalled runs here, as of now."""
        from hagd.artifacts.clock import SystemClock  # noqa: PLC0415
        from hagd.pipeline.stalled import StallCheck  # noqa: PLC0415

        return StallCheck(self.runs, self.log, self.leases(), SystemClock().now())

    def stage_ids(self) -> list[str]:
        """Name the stages that may have left events here."""
        from hagd.events.topics import ENTRY_STAGE  # noqa: PLC0415
        from hagd.pipeline.stages import discover_stages  # noqa: PLC0415

        planned = {entry.stage_id for run_id in self.runs.list() for entry in self.runs.request(run_id).plan}
        return sorted({ENTRY_STAGE, *planned, *discover_stages()})


@contextmanager
def open_place(folder: Path | None) -> Generator[Place]:
    """Open a folder, or what the services are set to.

    Raises:
        NotARunError: the folder holds no run.
        UsageError: there is no folder, and nothing says where the services work.
        UnavailableError: log or store does not answer.
    """
    from hagd.deployment.config import Places, places_of  # noqa: PLC0415
    from hagd.deployment.opening import open_existing  # noqa: PLC0415
    from hagd.deployment.sources import read_settings  # noqa: PLC0415

    if folder is not None:
        places, name = Places(folder), str(folder)
    else:
        settings = read_settings().settings
        if settings.root is None and (settings.log == "sqlite" or settings.store is None):
            raise UsageError(
                "no folder was given, and nothing says where the services work",
                "name a folder; or set HAGD_LOG=kafka, HAGD_KAFKA_SERVERS and HAGD_STORE, or [service] of hagd.toml",
            )
        places = places_of(settings)
        name = settings.store or str(settings.root)
    opened = open_existing(places)
    try:
        yield Place(name, places.root, opened.store, opened.runs, opened.log)
    finally:
        opened.log.close()
