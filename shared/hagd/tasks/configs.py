"""What can be asked of each task, as small frozen dataclasses. Loads without torch, so a CLI or driver may read it.

`parse_config` is the one edge where outside values enter: unknown fields, wrong types and impossible numbers are
refused here, and builders trust what they get.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from hagd.errors import InvalidInputError

LARGEST_MODULUS = 2048
"""All pairs of operands are enumerated; past this the table alone takes hundreds of megabytes."""
MOST_BITS = 16
MOST_SUBSETS = 200_000


class TaskConfig(Protocol):
    """A frozen dataclass whose fields all have defaults."""

    def check(self) -> None:
        """Refuse values that no task can be built from."""
        ...


@dataclass(frozen=True)
class ModularAdditionConfig:
    """`a b =` -> (a + b) mod modulus."""

    modulus: int = 113
    """Number of values of each operand; the paper's is 113."""
    n_discover: int = 6400
    """At most this many prompts for scores, graph and dictionary training."""
    n_select: int = 400
    n_verify: int = 600
    n_ood: int = 400
    band_share: float = 0.1
    """Share of operand values that only D_ood may use."""
    seed: int = 0

    def check(self) -> None:
        _require(
            3 <= self.modulus <= LARGEST_MODULUS,
            f"modulus must be between 3 and {LARGEST_MODULUS}, not {self.modulus}",
            "the paper's is 113",
        )
        _require_share("band_share", self.band_share)
        _require_sizes(self)


@dataclass(frozen=True)
class ParityConfig:
    """`b1 ... bn = r1 ... r(n-1)` -> the running parities r1 ... rn, each judged under teacher forcing."""

    n_bits: int = 8
    """2 ** n_bits strings exist. With 8 every string of D_verify meets several flips, to reach 200 pairs."""
    n_discover: int = 4096
    n_select: int = 300
    n_verify: int = 400
    n_ood: int = 200
    seed: int = 0

    def check(self) -> None:
        _require(
            4 <= self.n_bits <= MOST_BITS,
            f"n_bits must be between 4 and {MOST_BITS}, not {self.n_bits}",
            "8 trains in seconds",
        )
        _require_sizes(self)


@dataclass(frozen=True)
class SortingConfig:
    """`v1 ... vn = s1 ... s(n-1)` -> the values in rising order, each judged under teacher forcing."""

    length: int = 5
    """How many different values a list holds."""
    n_values: int = 10
    """From how many values they come."""
    n_discover: int = 4096
    n_select: int = 300
    n_verify: int = 400
    n_ood: int = 300
    seed: int = 0

    def check(self) -> None:
        _require(
            2 <= self.length < self.n_values,
            f"length must be at least 2 and below n_values, not {self.length} of {self.n_values}",
            "the default sorts 5 of 10 values",
        )
        _require(
            math.comb(self.n_values, self.length) <= MOST_SUBSETS,
            f"{self.length} of {self.n_values} values give more than {MOST_SUBSETS} different sets",
            "use fewer values",
        )
        _require_sizes(self)


@dataclass(frozen=True)
class IoiConfig:
    """`When Mary and John went to the store, John gave a drink to` -> Mary."""

    n_discover: int = 256
    n_select: int = 96
    n_verify: int = 208
    n_ood: int = 64
    minimum_accuracy: float = 0.7
    seed: int = 0

    def check(self) -> None:
        _require_share("minimum_accuracy", self.minimum_accuracy)
        _require_sizes(self)


@dataclass(frozen=True)
class FactsConfig:
    """`The capital city of France is` -> Paris, for a few relations of one common shape."""

    n_discover: int = 160
    n_select: int = 96
    n_verify: int = 208
    n_ood: int = 64
    minimum_accuracy: float = 0.7
    seed: int = 0

    def check(self) -> None:
        _require_share("minimum_accuracy", self.minimum_accuracy)
        _require_sizes(self)


@dataclass(frozen=True)
class JsonlConfig:
    """Prompt pairs from a file, one JSON object per line."""

    path: str = ""
    """Where the file lies on the machine that builds the task."""
    digest: str = ""
    """sha256 of the file; checked when given."""
    judged: str = "vocabulary"
    """`vocabulary` or `choices`: what the answer must beat."""
    minimum_accuracy: float = 0.7
    seed: int = 0

    def check(self) -> None:
        _require_share("minimum_accuracy", self.minimum_accuracy)
        _require(
            self.judged in {"vocabulary", "choices"},
            f"judged must be 'vocabulary' or 'choices', not {self.judged!r}",
            "'vocabulary' asks the answer to beat every token",
        )


ConfigT = TypeVar("ConfigT")


def parse_config(kind: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build and check a config from outside values; missing fields take their defaults.

    Raises:
        InvalidInputError: an unknown field, a wrong type, or a value that no task can be built from.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # always a dataclass
    for name, value in values.items():
        if name not in known:
            raise InvalidInputError(f"unknown task field {name!r}", f"known fields: {', '.join(sorted(known))}")
        _require_type(name, value, type(known[name].default))
    config = kind(**values)
    config.check()  # type: ignore[attr-defined]  # every config of this module has it
    return config


def resolved_fields(config: Any) -> dict[str, Any]:
    """Give the fields that differ from their default, so that a field added later changes no key."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default
    }


def _require_type(name: str, value: Any, wanted: type) -> None:
    fits = isinstance(value, wanted) or (wanted is float and isinstance(value, int))
    if not fits or (wanted is not bool and isinstance(value, bool)):
        raise InvalidInputError(
            f"task field {name!r} must be of type {wanted.__name__}, not {value!r}", "correct the value"
        )


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise InvalidInputError(message, hint)


def _require_share(name: str, value: float) -> None:
    _require(0 <= value < 1, f"{name} must be at least 0 and below 1, not {value}", "give a share such as 0.1")


def _require_sizes(config: Any) -> None:
    for field in dataclasses.fields(config):
        if field.name.startswith("n_"):
            value = getattr(config, field.name)
            _require(value >= 1, f"{field.name} must be at least 1, not {value}", "give a positive number")
