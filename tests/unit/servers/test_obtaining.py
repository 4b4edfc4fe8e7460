"""How the programs that build servers are found."""

from pathlib import Path

import pytest

from servers.__main__ import version_of


def program(folder: Path, text: str) -> str:
    path = folder / "asked"
    path.write_text(f"#!/bin/sh\nprintf '{text}\\n'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Apache Maven 3.8.7", (3, 8, 7)),
        (r"\033[1mApache Maven 3.8.7\033[m", (3, 8, 7)),
        ('openjdk version "17.0.15" 2025-04-15', (17, 0, 15)),
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("no version at all", ()),
    ],
)
def test_a_version_is_read_whatever_colours_surround_it(tmp_path: Path, text: str, version: tuple[int, ...]) -> None:
    assert version_of(program(tmp_path, text), ["-version"]) == version


def test_a_program_that_is_not_there_has_no_version(tmp_path: Path) -> None:
    assert version_of(str(tmp_path / "missing"), []) == ()
