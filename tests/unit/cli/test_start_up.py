"""The command line and the package start without anything heavy: what makes `hagd --help` fast, checked by cause."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "numpy", "grpc", "transformers", "pydantic", "rich", "google.protobuf", "asyncio")


def loaded_by(script: str) -> set[str]:
    code = f"{script}\nimport sys, json; sys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return set(json.loads(done.stderr))


@pytest.mark.parametrize("command", ["--help", "--version"])
def test_help_loads_nothing_heavy(command: str) -> None:
    loaded = loaded_by(f"from hagd.cli.app import run\nassert run([{command!r}]) == 0")
    assert not loaded & set(HEAVY)


def test_a_variable_that_others_set_is_no_wish_for_the_version() -> None:
    command = [sys.executable, "-c", "from hagd.cli.app import run\nrun(['run', 'list', '--help'])"]
    done = subprocess.run(command, env={**os.environ, "HAGD_VERSION": "7"}, capture_output=True, text=True, check=True)
    assert "--stalled" in done.stdout


@pytest.mark.parametrize("command", [["--version"], ["run", "list", "nowhere", "--json"]])
def test_a_full_disk_behind_stdout_is_told_on_stderr(command: list[str]) -> None:
    script = f"import sys\nfrom hagd.cli.app import run\nsys.exit(run({command!r}))"
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "standard output cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_help_of_a_command_loads_nothing_that_computes() -> None:
    # typer itself brings pydantic when it reads the types of options.
    loaded = loaded_by("from hagd.cli.app import run\nassert run(['extract', '--help']) == 0")
    assert not loaded & (set(HEAVY) - {"pydantic"})


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import hagd") & set(HEAVY)


def test_what_drives_runs_never_loads_torch() -> None:
    script = "import hagd.extraction.door, hagd.rpc.wiring, hagd_transcoder.bootstrap, hagd_verification.bootstrap"
    assert not loaded_by(script) & {"torch", "transformers"}
