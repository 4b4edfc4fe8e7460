"""`hagd doctor`: what of this machine, this installation, a cluster and a run folder would stand in the way."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hagd.cli.deployed import check_deployment
from hagd.cli.findings import Finding
from hagd.cli.options import JsonFlag
from hagd.cli.output import EXIT_FAILED, write_json, write_table
from hagd.errors import HagdError

_LEAST_FREE_BYTES: Final = 2 * 2**30
_LEAST_MEMORY_BYTES: Final = 4 * 2**30
# Modules that stages import, and the extra that brings each.
_HEAVY: Final = {"torch": "all", "transformers": "all", "gguf": "transcoder"}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(doctor)


def doctor(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run folder to check as well.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check this installation, this machine, the log and store that the services are set to, and a run folder. Exit
    code 1 when something stands in the way."""
    checks: list[Callable[[], list[Finding]]] = [_installation, _stages, _machine, _ports, check_deployment]
    if run is not None:
        folder = run
        checks.append(lambda: _run_folder(folder))
    findings = [finding for check in checks for finding in check()]
    if as_json:
        write_json("doctor", [finding.__dict__ for finding in findings])
    else:
        rows: list[list[Any]] = [[it.verdict, it.name, it.found, it.hint] for it in findings]
        write_table(["", "what", "found", "hint"], rows)
    raise typer.Exit(EXIT_FAILED if any(finding.verdict == "problem" for finding in findings) else 0)


def _installation() -> list[Finding]:
    import platform  # noqa: PLC0415
    from importlib.metadata import version  # noqa: PLC0415

    new_enough = sys.version_info >= (3, 11)
    findings = [
        Finding("python", "ok" if new_enough else "problem", platform.python_version(), "" if new_enough else "3.11+")
    ]
    for module, extra in _HEAVY.items():
        # Looked for, not imported: torch takes seconds.
        if importlib.util.find_spec(module) is None:
            findings.append(Finding(module, "problem", "missing", f"pip install 'hagd[{extra}]'"))
        else:
            findings.append(Finding(module, "ok", version(module.replace("_", "-"))))
    return findings


def _stages() -> list[Finding]:
    from importlib.metadata import entry_points  # noqa: PLC0415

    from hagd.pipeline.stages import GROUP, find_stage  # noqa: PLC0415

    findings: list[Finding] = []
    for name in sorted({point.name for point in entry_points(group=GROUP)}):
        try:
            findings.append(Finding(f"stage {name}", "ok", f"version {find_stage(name).semantics_version}"))
        except HagdError as error:
            findings.append(Finding(f"stage {name}", "problem", error.message, error.hint))
    return findings


def _machine() -> list[Finding]:
    import psutil  # noqa: PLC0415

    memory = int(psutil.virtual_memory().available)
    free = shutil.disk_usage(Path.cwd()).free
    return [
        Finding("CPUs", "ok", str(os.cpu_count())),
        Finding(
            "free memory",
            "ok" if memory >= _LEAST_MEMORY_BYTES else "warning",
            f"{memory / 2**30:.1f} GiB",
            "" if memory >= _LEAST_MEMORY_BYTES else "pretrained models want 8 GiB",
        ),
        Finding(
            "free disk",
            "ok" if free >= _LEAST_FREE_BYTES else "warning",
            f"{free / 2**30:.1f} GiB",
            "" if free >= _LEAST_FREE_BYTES else "runs of pretrained models take a few GiB",
        ),
    ]


def _ports() -> list[Finding]:
    import socket  # noqa: PLC0415

    from hagd.cli.services import FIRST_PORT, SERVICES  # noqa: PLC0415

    findings: list[Finding] = []
    for number, name in enumerate(SERVICES):
        with socket.socket() as probe:
            probe.settimeout(0.5)
            open_there = probe.connect_ex(("127.0.0.1", FIRST_PORT + number)) == 0
        found = "something listens" if open_there else "free"
        hint = "fine if it is `hagd up`" if open_there else ""
        findings.append(Finding(f"port {FIRST_PORT + number} ({name})", "ok", found, hint))
    return findings


def _run_folder(root: Path) -> list[Finding]:
    from hagd.extraction.opened import OpenRun, list_runs  # noqa: PLC0415

    try:
        states = list_runs(root)
    except HagdError as error:
        return [Finding(str(root), "problem", error.message, error.hint)]
    findings = [Finding(str(root), "ok", f"{len(states)} runs")]
    store = OpenRun.open(root, states[0].run_id).folder.open_store(create=False) if states else None
    for state in states:
        bad = [role for role, ref in state.outputs.items() if store is not None and not store.check_blob(ref)]
        found = f"{', '.join(bad)} lost or damaged" if bad else f"{len(state.outputs)} artifacts whole"
        hint = f"`hagd run resume {root}` computes them again" if bad else ""
        findings.append(Finding(f"run {state.run_id[:12]}", "problem" if bad else "ok", found, hint))
    return findings
