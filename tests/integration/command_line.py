"""Call `hagd` in this process, and read what it says."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from hagd.cli.app import run
from integration.toy_stages import USE

TASK = ["--task", "modular-addition", "--modulus", "7"]


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Give stdout as JSON."""
        return json.loads(self.out)

    @property
    def data(self) -> Any:
        """Give the data of an answer, its frame checked."""
        content = self.json
        assert set(content) == {"schema", "kind", "data"}
        assert content["schema"] == "hagd.cli/v1"
        return content["data"]

    @property
    def error(self) -> dict[str, str]:
        """Give an error, its frame checked."""
        content = self.json
        assert set(content) == {"error"}
        assert set(content["error"]) == {"kind", "message", "hint", "docs"}
        return content["error"]


@dataclass(frozen=True)
class CommandLine:
    """`hagd` as a function."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Answer:
        self.capture.readouterr()
        code = run(list(arguments))
        out, err = self.capture.readouterr()
        return Answer(code, out, err)

    def extract(self, *arguments: str) -> Answer:
        """Call `hagd extract` with the toy stages."""
        return self("extract", *TASK, *USE, *arguments)
