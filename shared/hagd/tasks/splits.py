"""Splits by group: no group, and no prompt, of one split is ever seen in another.

Algorithmic tasks divide all their inputs into *regions*, one per split. Clean prompts are sampled from a region,
and their counterfactuals come from the same region, so that the two together stay disjoint between splits.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hagd.tasks.task import SPLITS, Split

IN_DISTRIBUTION: tuple[Split, ...] = ("discover", "select", "verify")
VERIFY_FLOOR = 200
"""Pairs that D_verify should hold where the task allows."""


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """Give a random generator of its own for every purpose, so that adding one never shifts another."""
    text = ":".join(map(str, (seed, *purpose)))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
    return torch.Generator().manual_seed(number)


def assign_groups(n_groups: int, shares: Mapping[Split, float], generator: torch.Generator) -> Int[Tensor, " group"]:
    """Give each group the index (in `SPLITS`) of its split, in proportion to `shares`, at random."""
    total = sum(shares.values())
    order = torch.randperm(n_groups, generator=generator)
    assigned = torch.empty(n_groups, dtype=torch.int64)
    start, done = 0, 0.0
    for split, share in shares.items():
        done += share
        end = round(n_groups * done / total)
        assigned[order[start:end]] = SPLITS.index(split)
        start = end
    return assigned


def sample(index: Int[Tensor, " item"], limit: int, generator: torch.Generator) -> Int[Tensor, " kept"]:
    """Draw at most `limit` entries without replacement, in random order."""
    return index[torch.randperm(len(index), generator=generator)[:limit]]


def repeat_to_floor(index: Int[Tensor, " item"], limit: int) -> Int[Tensor, " repeated"]:
    """Repeat each clean prompt in place until D_verify can reach its floor; each copy meets another counterfactual.

    The bootstrap goes over groups, so repeated prompts make no interval narrower than they should.
    """
    floor = min(limit, VERIFY_FLOOR)
    if len(index) == 0 or len(index) >= floor:
        return index
    copies = min(-(-2 * floor // len(index)), max(1, limit // len(index)))
    return index.repeat_interleave(copies)


def drop_repeated(rows: Int[Tensor, "item column"]) -> Int[Tensor, " kept"]:
    """Give the index of the first occurrence of every different row, in order."""
    seen: set[tuple[int, ...]] = set()
    kept: list[int] = []
    for number, row in enumerate(rows.tolist()):
        if tuple(row) not in seen:
            seen.add(tuple(row))
            kept.append(number)
    return torch.tensor(kept, dtype=torch.int64)


def pick_one(allowed: Bool[Tensor, "item candidate"], generator: torch.Generator) -> Int[Tensor, " item"]:
    """Draw one allowed candidate per row, uniformly; -1 where none is allowed."""
    weight = torch.rand(allowed.shape, generator=generator).masked_fill(~allowed, -1.0)
    best, chosen = weight.max(dim=1)
    return torch.where(best >= 0, chosen, -1)


def split_of_groups(groups: Sequence[str], shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """Assign every different group name to a split, in proportion to `shares`."""
    names = sorted(set(groups))
    assigned = assign_groups(len(names), shares, generator_for(seed, "groups"))
    return {name: SPLITS[number] for name, number in zip(names, assigned.tolist(), strict=True)}
