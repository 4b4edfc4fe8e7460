"""Every command that a page, the Makefile or a deployment file shows is one that the command line takes.

Commands are read from code blocks, from `inline code` and from recipes, and parsed by the real parser; nothing is run.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from hagd.cli.app import app
from hagd.deployment.sources import read_command_line

ROOT = Path(__file__).parents[3]
MAKEFILE = ROOT / "Makefile"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(path for folder in ("docs", "services", "examples") for path in (ROOT / folder).rglob("*.md")),
]
RECIPES = [MAKEFILE, *sorted(path for path in (ROOT / "deploy").rglob("*") if path.suffix in {".yaml", ".yml", ".md"})]
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
SHELL_OPERATORS = set("();<>|&")


def code_of(page: str) -> Iterator[str]:
    """Give the lines of a page's code blocks, continued ones joined, and its inline code."""
    for block in FENCE.findall(page):
        yield from block.replace("\\\n", " ").splitlines()
    yield from INLINE.findall(FENCE.sub("", page))


def commands_in(line: str, program: str) -> Iterator[list[str]]:
    """Give what follows `program` where a line calls it: up to a shell operator or a comment."""
    for match in re.finditer(rf"(?:^|[$#:;&|]\s|[A-Z]=\S+\s|\(BIN\)/){program}\s+([a-z-].*)", line.strip()):
        text = re.sub(r"\$\((\w+)\)", r"\1", match.group(1))
        lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= SHELL_OPERATORS:
                break
            words.append(word)
        yield words


def lines_of(path: Path) -> Iterator[str]:
    text = path.read_text()
    yield from code_of(text) if path.suffix == ".md" else text.replace("\\\n", " ").splitlines()


def documented(program: str) -> list[tuple[str, list[str]]]:
    """Give every call of a program with the file that shows it."""
    return [
        (str(path.relative_to(ROOT)), words)
        for path in [*PAGES, *RECIPES]
        for line in lines_of(path)
        for words in commands_in(line, program)
    ]


def complaint(words: list[str]) -> str | None:
    """Say what the parser has against a command; None where it takes it. A bare name needs no arguments."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while rest and hasattr(command, "commands"):
        name = rest.pop(0)
        if name in {option for it in command.params for option in it.opts} | {"--help"}:
            return None
        if name not in command.commands:
            return f"there is no command {name!r}"
        command = command.commands[name]
    if not rest or "--help" in rest:
        return None
    try:
        command.make_context(command.name, rest)
    except Exception as error:  # the parser's own errors; typer may carry its own copy of click
        if not hasattr(error, "format_message"):
            raise
        return str(error.format_message())  # type: ignore[attr-defined]
    return None


HAGD = documented("hagd")


def test_commands_are_found_where_they_stand() -> None:
    block = "$ hagd extract \\\n  --task ioi  # why\n$ make demo && A=1 hagd verify x | jq .\n$ ls /srv/hagd -l\n"
    page = f"Say `hagd show x`.\n```console\n{block}```\n"
    found = [words for line in code_of(page) for words in commands_in(line, "hagd")]
    recipe = list(commands_in("\t$(BIN)/hagd show $(RUNS)/x || test $$? -eq 3", "hagd"))

    assert found == [["extract", "--task", "ioi"], ["verify", "x"], ["show", "x"]]
    assert recipe == [["show", "RUNS/x"]]
    assert {place for place, _ in HAGD} >= {"README.md", "Makefile", "docs/how-to/add-a-task.md"}
    assert len(HAGD) > 20


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("extract --max-nodes 347", "No such option: --max-nodes"),
        ("extract --seed one", "Invalid value for '--seed'"),
        ("verify x y", "unexpected extra argument"),
        ("up --port 0", "Missing option '--root'"),
        ("circuits show x", "there is no command 'circuits'"),
        ("run restart x", "there is no command 'restart'"),
    ],
)
def test_a_wrong_command_is_found_out(command: str, words: str) -> None:
    assert words in (complaint(command.split()) or "")


@pytest.mark.parametrize(("place", "words"), HAGD, ids=[f"{place}: {' '.join(words)}" for place, words in HAGD])
def test_a_command_that_is_shown_is_taken(place: str, words: list[str]) -> None:
    assert complaint(words) is None, f"{place} shows: hagd {shlex.join(words)}"


def test_targets_that_are_shown_are_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE.read_text(), re.MULTILINE))
    shown = [(place, words[0]) for place, words in documented("make") if "=" not in words[0] and words[0][0] != "-"]

    assert len(shown) > 3
    assert [(place, target) for place, target in shown if target not in targets] == []


def test_options_of_services_that_are_shown_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    calls = [words for _, words in documented("python") if words[:1] == ["-m"] and words[1].startswith("hagd_")]

    for _, module, *options in [words for words in calls if "." not in words[1]]:
        try:
            read_command_line(module.removeprefix("hagd_"), options)
        except SystemExit as end:
            # --help ends the command too, and well.
            assert end.code == 0, f"python -m {module} {shlex.join(options)}: {capsys.readouterr().err}"


def test_modules_that_are_shown_can_be_run() -> None:
    modules = {words[1] for _, words in documented("python") if words[0] == "-m"} - {"pip", "venv"}

    assert {"benchmarks.circuits", "hagd_traversal.membership.training"} <= modules
    assert sorted(name for name in modules if not can_be_run(name)) == []


def can_be_run(module: str) -> bool:
    places = [folder / module.replace(".", "/") for folder in (ROOT, ROOT / "services", ROOT / "tools")]
    return any(place.with_suffix(".py").is_file() or (place / "__main__.py").is_file() for place in places)
