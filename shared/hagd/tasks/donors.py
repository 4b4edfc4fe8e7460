"""Donors: whose activations replace what lies outside a circuit.

One donor serves all nodes of a prompt at once. It is never the prompt itself, has another answer and another
group, and comes from the same layout and split (a `PromptBatch` holds exactly those). Every prompt serves as
donor once where such a permutation is found, so that a draw has the split's own statistics.
"""

from collections import Counter

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hagd.errors import InvalidInputError
from hagd.tasks.splits import generator_for
from hagd.tasks.task import SPLITS, PromptBatch, Task

DRAWS = 3
"""Fixed draws that every unpaired number is averaged over."""
FEWEST_DONORS = 16
_ROUNDS = 8
_TRIES = 256


def draw_donors(batch: PromptBatch, draw: int, seed: int) -> Int[Tensor, " batch"]:
    """Give each prompt the index of its donor.

    Args:
        batch: prompts of one layout and split.
        draw: which of the fixed draws, 0 .. DRAWS - 1.
        seed: equal seeds give equal donors.

    Raises:
        InvalidInputError: a prompt has fewer than 16 different possible donors.
    """
    answers = torch.unique(batch.answers, dim=0, return_inverse=True)[1]
    names = {name: number for number, name in enumerate(dict.fromkeys(batch.groups))}
    groups = torch.tensor([names[name] for name in batch.groups], dtype=torch.int64)
    _require_enough(batch)
    generator = generator_for(seed, "donors", draw)
    donors = torch.randperm(len(batch), generator=generator)
    for _ in range(_ROUNDS):
        bad = torch.nonzero(~_fits(answers, groups, torch.arange(len(batch)), donors)).flatten()
        if len(bad) == 0:
            return donors
        _swap_away(answers, groups, donors, bad.tolist(), generator)
    return _draw_freely(answers, groups, donors, generator)


def check_donors(task: Task) -> None:
    """Check that every prompt of every split can be given a donor, before anything is computed.

    Raises:
        InvalidInputError: a split that must hold prompts is empty, or a bucket has fewer than 16 possible donors.
    """
    for split in SPLITS:
        batches = task.batches.get(split, ())
        if not batches and split != "ood":
            raise InvalidInputError(f"task {task.name!r} leaves D_{split} empty", "give a larger task")
        for batch in batches:
            _require_enough(batch, f"in D_{split} of task {task.name!r}, ")


def count_donors(batch: PromptBatch) -> int:
    """Give the smallest number of different possible donors that any prompt of the batch has."""
    answers = torch.unique(batch.answers, dim=0, return_inverse=True)[1].tolist()
    different = {
        (tuple(row), answer, group)
        for row, answer, group in zip(batch.clean.tolist(), answers, batch.groups, strict=True)
    }
    by_answer = Counter(answer for _, answer, _ in different)
    by_group = Counter(group for _, _, group in different)
    by_both = Counter((answer, group) for _, answer, group in different)
    return min(
        (len(different) - by_answer[a] - by_group[g] + by_both[a, g] for _, a, g in different),
        default=0,
    )


def _require_enough(batch: PromptBatch, place: str = "") -> None:
    fewest = count_donors(batch)
    if fewest < FEWEST_DONORS:
        n_answers, n_groups = len(torch.unique(batch.answers, dim=0)), len(set(batch.groups))
        roles = batch.layout.roles
        raise InvalidInputError(
            f"{place}a prompt of {len(roles)} tokens ({roles[0]} ... {roles[-1]}) "
            f"has {fewest} possible donors among {len(batch)} prompts of {n_answers} answers and {n_groups} groups; "
            f"{FEWEST_DONORS} are needed",
            "give more prompts of this length, role layout and number of foils, with different answers and groups",
        )


def _fits(
    answers: Int[Tensor, " batch"], groups: Int[Tensor, " batch"], prompts: Tensor, donors: Tensor
) -> Bool[Tensor, "..."]:
    return (answers[prompts] != answers[donors]) & (groups[prompts] != groups[donors])


def _swap_away(
    answers: Int[Tensor, " batch"],
    groups: Int[Tensor, " batch"],
    donors: Int[Tensor, " batch"],
    bad: list[int],
    generator: torch.Generator,
) -> None:
    """Exchange unfit donors with those of other prompts, wherever both then fit; keeps a permutation."""
    for prompt in bad:
        others = torch.randint(len(donors), (_TRIES,), generator=generator)
        here = _fits(answers, groups, torch.full_like(others, prompt), donors[others])
        there = _fits(answers, groups, others, donors[prompt].expand_as(others))
        good = torch.nonzero(here & there).flatten()
        if len(good):
            other = int(others[good[0]])
            donors[[prompt, other]] = donors[[other, prompt]]


def _draw_freely(
    answers: Int[Tensor, " batch"],
    groups: Int[Tensor, " batch"],
    donors: Int[Tensor, " batch"],
    generator: torch.Generator,
) -> Int[Tensor, " batch"]:
    """Give prompts that no exchange could serve any fitting donor (one answer holds more than half the prompts)."""
    everyone = torch.arange(len(donors))
    for prompt in torch.nonzero(~_fits(answers, groups, everyone, donors)).flatten().tolist():
        fitting = torch.nonzero(_fits(answers, groups, torch.full_like(everyone, prompt), everyone)).flatten()
        donors[prompt] = fitting[torch.randint(len(fitting), (1,), generator=generator)]
    return donors
