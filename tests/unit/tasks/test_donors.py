"""Donors: another prompt, another answer, another group; a permutation; fixed draws; never too few."""

import pytest
import torch

from hagd.errors import InvalidInputError
from hagd.tasks.donors import DRAWS, check_donors, count_donors, draw_donors
from hagd.tasks.registry import build_task
from hagd.tasks.task import SPLITS, Layout, PromptBatch, Task

LAYOUT = Layout(("x", "eq"), (1,))


def batch_of(answers: list[int], groups: list[str]) -> PromptBatch:
    n = len(answers)
    clean = torch.stack([torch.arange(n), torch.full((n,), 99)], dim=1)
    column = torch.tensor(answers)[:, None]
    return PromptBatch(LAYOUT, clean, clean.flip(0), column, column[..., None] + 1, tuple(groups))


@pytest.mark.parametrize("name", ["modular-addition", "parity", "sorting"])
@pytest.mark.parametrize("draw", range(DRAWS))
def test_a_donor_has_another_answer_and_another_group_and_serves_once(name: str, draw: int) -> None:
    task = build_task(name, {"modulus": 17} if name == "modular-addition" else {})
    for split in SPLITS:
        for batch in task.batches[split]:
            donors = draw_donors(batch, draw, seed=5)
            assert torch.equal(donors.sort().values, torch.arange(len(batch)))
            assert (batch.answers != batch.answers[donors]).any(1).all()
            assert all(batch.groups[i] != batch.groups[d] for i, d in enumerate(donors.tolist()))


def test_draws_and_seeds_differ_and_repeat() -> None:
    batch = build_task("modular-addition", {"modulus": 17}).batches["verify"][0]
    first = draw_donors(batch, 0, seed=1)
    assert torch.equal(first, draw_donors(batch, 0, seed=1))
    assert not torch.equal(first, draw_donors(batch, 1, seed=1))
    assert not torch.equal(first, draw_donors(batch, 0, seed=2))


def test_a_majority_answer_that_no_permutation_can_serve_still_gets_fitting_donors() -> None:
    batch = batch_of([7] * 40 + list(range(20, 37)), [str(i) for i in range(57)])
    donors = draw_donors(batch, 0, seed=0)
    assert (batch.answers != batch.answers[donors]).all()


def test_donors_are_counted_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(5, (31,), generator=generator).tolist()
    groups = [str(value) for value in torch.randint(7, (31,), generator=generator).tolist()]
    expected = min(sum(answers[i] != answers[j] and groups[i] != groups[j] for j in range(31)) for i in range(31))
    assert count_donors(batch_of(answers, groups)) == expected


def test_repeated_prompts_count_once_as_donors() -> None:
    batch = batch_of(list(range(17)), [str(i) for i in range(17)])
    doubled = batch.take(torch.arange(17).repeat(2))
    assert count_donors(batch) == count_donors(doubled) == 16


def test_fifteen_donors_are_refused_with_the_numbers() -> None:
    batch = batch_of(list(range(16)), [str(i) for i in range(16)])
    with pytest.raises(InvalidInputError, match="15 possible donors among 16 prompts of 16 answers and 16 groups; 16"):
        draw_donors(batch, 0, seed=0)


def test_a_task_is_refused_early_by_split_when_a_bucket_is_too_small() -> None:
    task = build_task("modular-addition", {"modulus": 7})
    with pytest.raises(InvalidInputError, match="D_discover of task 'modular-addition'"):
        check_donors(task)


def test_an_empty_split_is_refused() -> None:
    full = batch_of(list(range(31)), [str(i) for i in range(31)])
    task = Task("toy", LAYOUT.roles, {"discover": (full,), "select": (full,)}, {}, "vocabulary", False, 0.9)
    with pytest.raises(InvalidInputError, match="leaves D_verify empty"):
        check_donors(task)
