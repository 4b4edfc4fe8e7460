"""Prompt pairs from a file: one JSON object per line, read without trusting it.

    {"clean": "The capital of France is", "counterfactual": "The capital of Japan is",
     "answer": " Paris", "foils": [" Tokyo"]}

Optional: `group` (prompts of one group share a split; by default the two texts of a pair, so that a pair and its
mirror are twins), `split`, and what positions are called: `roles` names every token, `marks` names a piece of text
(`{"subject": "France"}`; of several tokens, those before the last are `subject-1`, `subject-2`). Other positions are
`end`, `end-1`, ... counted from the answer, so that prompts of unequal length still share their roles near it.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from hagd.errors import InvalidInputError
from hagd.models.tokenizer import Tokenizer
from hagd.tasks.configs import JsonlConfig
from hagd.tasks.splits import split_of_groups
from hagd.tasks.task import SPLITS, Layout, Split, Task
from hagd.tasks.text import TextPair, last_position_layout, make_text_task

LONGEST_LINE_BYTES = 1 << 20
MOST_LINES = 100_000
SHARES: dict[Split, float] = {"discover": 0.4, "select": 0.2, "verify": 0.4}
"""Of the groups without a `split` of their own; D_ood holds only lines that ask for it."""
_REQUIRED = ("clean", "counterfactual", "answer", "foils")
_OPTIONAL = ("group", "split", "roles", "marks")
_ROLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")


@dataclass(frozen=True)
class _Line:
    number: int
    fields: Mapping[str, Any]

    def text(self, name: str, *, default: str | None = None) -> str:
        value = self.fields.get(name, default)
        if not isinstance(value, str) or not value:
            raise InvalidInputError(f"{name!r} must be a text that is not empty, not {value!r}")
        return value


def build_jsonl(config: JsonlConfig, tokenizer: Tokenizer) -> Task:
    """Read the file and build the task.

    Raises:
        InvalidInputError: the file is missing, empty, changed or not UTF-8; or, with its number, a line is too long,
            no JSON object, lacks a field, has an answer of several tokens or equal to its foil, or unequal roles.
    """
    pairs: list[tuple[TextPair, Split | None]] = []
    digest = hashlib.sha256()
    for number, data in _read_lines(Path(config.path).expanduser(), digest):
        try:
            line = _Line(number, _parse(data))
            pairs.append((_write_pair(line, tokenizer), _asked_split(line)))
        except InvalidInputError as error:
            raise InvalidInputError(f"line {number}: {error.message}", error.hint or "correct this line") from error
    if not pairs:
        raise InvalidInputError(
            "the file of prompts is empty", "write one JSON object per line, with clean, counterfactual, answer, foils"
        )
    if config.digest and digest.hexdigest() != config.digest:
        raise InvalidInputError(
            f"the file of prompts has digest {digest.hexdigest()[:12]}, expected was {config.digest[:12]}",
            "it changed since the run was asked for: start a new run",
        )
    split_of = _split_groups(pairs, config.seed)
    by_split: dict[Split, list[TextPair]] = {split: [] for split in SPLITS}
    for pair, _ in pairs:
        by_split[split_of[pair.group]].append(pair)
    return make_text_task("jsonl", by_split, tokenizer, judged=config.judged, minimum_accuracy=config.minimum_accuracy)


def _read_lines(path: Path, digest: Any) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank with their numbers; no more than the longest line is ever held."""
    try:
        with path.open("rb") as stream:
            yield from _bounded_lines(stream, digest)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidInputError(f"the prompts {path} cannot be read: {reason}", "check the path") from error


def _bounded_lines(stream: BinaryIO, digest: Any) -> Iterator[tuple[int, bytes]]:
    number = 0
    while data := stream.readline(LONGEST_LINE_BYTES + 1):
        number += 1
        if len(data) > LONGEST_LINE_BYTES:
            raise InvalidInputError(
                f"line {number} is longer than {LONGEST_LINE_BYTES} bytes", "a prompt is a few sentences: shorten it"
            )
        if number > MOST_LINES:
            raise InvalidInputError(f"the file has more than {MOST_LINES} lines", "split it into several files")
        digest.update(data)
        if data.strip():
            yield number, data


def _parse(data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"not UTF-8 at byte {error.start}", "save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"not JSON: {error}", "write one complete JSON object per line") from error
    if not isinstance(parsed, dict):
        raise InvalidInputError("not a JSON object", 'write {"clean": ..., "counterfactual": ..., ...}')
    fields = cast("dict[str, Any]", parsed)
    missing = [name for name in _REQUIRED if name not in fields]
    if missing:
        raise InvalidInputError(f"lacks {', '.join(missing)}", f"every line needs {', '.join(_REQUIRED)}")
    unknown = sorted(set(fields) - {*_REQUIRED, *_OPTIONAL})
    if unknown:
        raise InvalidInputError(f"unknown field {unknown[0]!r}", f"optional fields: {', '.join(_OPTIONAL)}")
    return fields


def _write_pair(line: _Line, tokenizer: Tokenizer) -> TextPair:
    clean, counterfactual = line.text("clean"), line.text("counterfactual")
    tokens, other = tokenizer.encode(clean), tokenizer.encode(counterfactual)
    if len(tokens) != len(other):
        raise InvalidInputError(
            f"clean has {len(tokens)} tokens and counterfactual {len(other)}, so their roles do not align",
            "change words for words of as many tokens",
        )
    if tokens == other:
        raise InvalidInputError("clean and counterfactual are the same prompt", "change what the answer depends on")
    layout = _layout_of(line, tokenizer, len(tokenizer.encode_continuation(clean)))
    answer = tokenizer.single_token(line.text("answer"))
    foils = tuple(tokenizer.single_token(foil, "foil") for foil in _foils(line))
    if answer in foils:
        raise InvalidInputError(
            f"the answer {line.text('answer')!r} is also a foil", "a foil is an answer that would be wrong"
        )
    group = line.text("group", default=" / ".join(sorted((clean, counterfactual))))
    return TextPair(layout, tuple(tokens), tuple(other), answer, foils, group)


def _foils(line: _Line) -> list[str]:
    given = line.fields["foils"]
    values = [given] if isinstance(given, str) else given
    if not isinstance(values, list) or not values:
        raise InvalidInputError(f"'foils' must be a list of texts that is not empty, not {given!r}")
    foils = cast("list[Any]", values)
    for foil in foils:
        if not isinstance(foil, str) or not foil:
            raise InvalidInputError(f"a foil must be a text that is not empty, not {foil!r}")
    return list(dict.fromkeys(cast("list[str]", foils)))


def _layout_of(line: _Line, tokenizer: Tokenizer, n_tokens: int) -> Layout:
    roles = ["end" if i == 0 else f"end-{i}" for i in range(n_tokens - 1, -1, -1)]
    if "roles" in line.fields:
        roles = _given_roles(line.fields["roles"], n_tokens)
    marks = line.fields.get("marks", {})
    if not isinstance(marks, dict):
        raise InvalidInputError(f"'marks' must be an object of name and text, not {marks!r}")
    for name, marked in cast("dict[str, Any]", marks).items():
        _check_role(name)
        if not isinstance(marked, str) or not marked:
            raise InvalidInputError(f"the mark {name!r} must be a text that is not empty, not {marked!r}")
        first, last = _find(line.text("clean"), marked, tokenizer)
        for position in range(first, last + 1):
            roles[position] = name if position == last else f"{name}-{last - position}"
    repeated = sorted({role for role in roles if roles.count(role) > 1})
    if repeated:
        raise InvalidInputError(
            f"the role {repeated[0]!r} names two positions of one prompt", "a role is one position: rename one of them"
        )
    return last_position_layout(tokenizer, roles)


def _given_roles(given: Any, n_tokens: int) -> list[str]:
    if not isinstance(given, list):
        raise InvalidInputError(f"'roles' must be a list with one name per token, not {given!r}")
    roles = cast("list[Any]", given)
    if len(roles) != n_tokens:
        raise InvalidInputError(
            f"{len(roles)} roles for {n_tokens} tokens, so roles do not align with the prompt",
            "give one role per token, or name pieces of text with 'marks'",
        )
    for role in roles:
        _check_role(role)
    return [str(role) for role in roles]


def _check_role(role: Any) -> None:
    if not isinstance(role, str) or not _ROLE.fullmatch(role) or role == "bos":
        raise InvalidInputError(
            f"{role!r} cannot be the name of a role", "use letters, digits and _ . : - ('bos' is taken)"
        )


def _find(text: str, marked: str, tokenizer: Tokenizer) -> tuple[int, int]:
    """Give the first and last token of a piece of text that occurs once and ends where a token ends."""
    if text.count(marked) != 1:
        raise InvalidInputError(
            f"the marked text {marked!r} occurs {text.count(marked)} times in clean", "mark a text that occurs once"
        )
    start = text.index(marked)
    whole = tokenizer.encode_continuation(text)
    before = tokenizer.encode_continuation(text[:start].rstrip())
    upto = tokenizer.encode_continuation(text[: start + len(marked)])
    if whole[: len(upto)] != upto or upto[: len(before)] != before or len(before) >= len(upto):
        raise InvalidInputError(
            f"the marked text {marked!r} does not begin and end where tokens do", "mark whole words"
        )
    return len(before), len(upto) - 1


def _asked_split(line: _Line) -> Split | None:
    asked = line.fields.get("split")
    if asked is None:
        return None
    for split in SPLITS:
        if asked == split:
            return split
    raise InvalidInputError(f"there is no split {asked!r}", f"splits: {', '.join(SPLITS)}")


def _split_groups(pairs: Sequence[tuple[TextPair, Split | None]], seed: int) -> dict[str, Split]:
    """Give each group its split: the one that its lines ask for, else by chance."""
    asked: dict[str, Split] = {}
    for pair, split in pairs:
        if split is not None and asked.setdefault(pair.group, split) != split:
            raise InvalidInputError(
                f"lines of the group {pair.group[:80]!r} ask for the splits {asked[pair.group]!r} and {split!r}",
                "a group belongs to one split",
            )
    return split_of_groups([pair.group for pair, _ in pairs if pair.group not in asked], SHARES, seed) | asked
