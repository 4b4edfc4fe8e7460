"""Processes that learn one thing together: each holds all weights and has a part of the tokens of every update.

What an update says (gradients, losses, counts of what fired) is summed over its tokens, so that the sum over all
members is what one process would find with all of them; from there on every member does the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Group(Protocol):
    """The members, seen by one of them. All call the same methods in the same order."""

    @property
    def rank(self) -> int:
        """Give which member this is; the first, 0, keeps checkpoints and gives the result."""
        ...

    @property
    def size(self) -> int:
        """Give how many there are."""
        ...

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all members in place of each tensor.

        Raises:
            WorkerDiedError: a member is gone.
        """
        ...

    def spread_(self, tensors: Sequence[Tensor]) -> None:
        """Put the first member's values in place of each tensor; errors as of `sum_`."""
        ...

    def largest(self, values: Float[Tensor, " value"], count: int) -> int:
        """Say how many of these are among the `count` largest of all members; errors as of `sum_`."""
        ...


@dataclass(frozen=True)
class _Alone:
    rank: int = 0
    size: int = 1

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Leave them: there is nobody else."""

    def spread_(self, tensors: Sequence[Tensor]) -> None:
        """Leave them."""

    def largest(self, values: Float[Tensor, " value"], count: int) -> int:
        return min(count, len(values))


ALONE: Final[Group] = _Alone()
"""The group of one."""


@dataclass(frozen=True)
class Share:
    """What this member has of the tokens of one update."""

    group: Group = ALONE
    n_tokens: int | None = None
    """Of the update in all members; those at hand when None."""

    def total(self, at_hand: int) -> int:
        """Give how many tokens the update has, of which so many are at hand."""
        return at_hand if self.n_tokens is None else self.n_tokens


WHOLE: Final = Share()
"""All of them."""
