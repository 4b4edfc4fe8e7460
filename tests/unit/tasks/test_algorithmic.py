"""Modular addition, parity and sorting: right answers, disjoint splits, honest counterfactuals and bands."""

from typing import Any

import pytest
import torch

from hagd.errors import InvalidInputError
from hagd.tasks.configs import ModularAdditionConfig, ParityConfig, SortingConfig, parse_config
from hagd.tasks.modular_addition import band_of, build_modular_addition
from hagd.tasks.parity import EQUALS, EVEN, build_parity
from hagd.tasks.registry import build_task
from hagd.tasks.sorting import band_value, build_sorting
from hagd.tasks.task import SPLITS, PromptBatch, Task

SMALL: dict[str, dict[str, Any]] = {
    "modular-addition": {"modulus": 17},
    "parity": {"n_bits": 8},
    "sorting": {"length": 3, "n_values": 11},
}


@pytest.fixture(scope="module", params=SMALL)
def task(request: pytest.FixtureRequest) -> Task:
    return build_task(request.param, SMALL[request.param])


def only(task: Task, split: str) -> PromptBatch:
    (batch,) = task.batches[split]  # type: ignore[index]  # every split has one layout here
    return batch


def prompts(batch: PromptBatch) -> set[tuple[int, ...]]:
    return {tuple(row) for row in [*batch.clean.tolist(), *batch.counterfactual.tolist()]}


def test_no_prompt_of_one_split_clean_or_counterfactual_occurs_in_another(task: Task) -> None:
    seen = [prompts(only(task, split)) for split in SPLITS]
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_no_group_of_one_split_occurs_in_another(task: Task) -> None:
    seen = [set(only(task, split).groups) for split in SPLITS]
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_no_pair_is_given_twice(task: Task) -> None:
    for split in SPLITS:
        batch = only(task, split)
        rows = torch.cat([batch.clean, batch.counterfactual], dim=1)
        assert len(torch.unique(rows, dim=0)) == len(batch)


def test_an_answer_never_equals_its_foil(task: Task) -> None:
    for split in SPLITS:
        batch = only(task, split)
        assert (batch.answers[..., None] != batch.foils).all()


def test_a_counterfactual_changes_one_operand_and_its_side_takes_turns(task: Task) -> None:
    n_operands = task.roles.index("eq")
    batch = only(task, "discover")
    changed = (batch.clean != batch.counterfactual)[:, :n_operands]
    assert (changed.sum(1) == 1).all()
    counts = changed.sum(0)
    assert counts.min() > 0.5 * counts.float().mean()


def test_answers_of_clean_and_counterfactual_differ_somewhere(task: Task) -> None:
    twin = {tuple(row): tuple(answer) for split in SPLITS for row, answer in _with_answers(only(task, split))}
    for split in SPLITS:
        batch = only(task, split)
        for clean, other in zip(batch.clean.tolist(), batch.counterfactual.tolist(), strict=True):
            if tuple(other) in twin:
                assert twin[tuple(clean)] != twin[tuple(other)]


def _with_answers(batch: PromptBatch) -> list[tuple[list[int], list[int]]]:
    return list(zip(batch.clean.tolist(), batch.answers.tolist(), strict=True))


def test_the_same_seed_gives_the_same_task_and_another_seed_another() -> None:
    first, again, other = (build_task("modular-addition", {"modulus": 17, "seed": seed}) for seed in (3, 3, 5))
    assert torch.equal(only(first, "verify").clean, only(again, "verify").clean)
    assert prompts(only(first, "verify")) != prompts(only(other, "verify"))


def test_building_a_task_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    build_task("sorting", SMALL["sorting"])
    assert torch.equal(before, torch.random.get_rng_state())


def test_modular_addition_answers_the_sum_modulo_p() -> None:
    task = build_modular_addition(ModularAdditionConfig(modulus=13))
    batch = only(task, "discover")
    assert batch.layout.roles == ("a", "b", "eq")
    assert batch.layout.answer_positions == (2,)
    for (a, b, equals), (answer,), ((foil,),), (c, d, _) in zip(
        batch.clean.tolist(), batch.answers.tolist(), batch.foils.tolist(), batch.counterfactual.tolist(), strict=True
    ):
        assert equals == 13
        assert answer == (a + b) % 13
        assert foil == (c + d) % 13


def test_twins_of_modular_addition_share_a_group() -> None:
    task = build_modular_addition(ModularAdditionConfig(modulus=13))
    for split in SPLITS:
        batch = only(task, split)
        for (a, b, _), group in zip(batch.clean.tolist(), batch.groups, strict=True):
            assert group == f"{min(a, b)}+{max(a, b)}"


@pytest.mark.parametrize("modulus", [13, 17, 113])
def test_operands_of_the_band_occur_in_d_ood_only(modulus: int) -> None:
    config = ModularAdditionConfig(modulus=modulus)
    task, band = build_modular_addition(config), band_of(config)
    assert int(band.sum()) == max(1, round(0.1 * modulus))
    for split in SPLITS:
        batch = only(task, split)
        inside = band[torch.cat([batch.clean, batch.counterfactual])[:, :2]].any(1)
        assert inside.all() if split == "ood" else not inside.any()


def test_the_papers_modulus_gives_large_splits() -> None:
    task = build_modular_addition(ModularAdditionConfig())
    assert task.size("discover") > 5000
    assert [task.size(split) for split in ("select", "verify", "ood")] == [400, 600, 400]


def test_d_verify_of_a_small_task_repeats_prompts_but_not_pairs_to_come_near_its_floor() -> None:
    task = build_modular_addition(ModularAdditionConfig(modulus=17))
    batch = only(task, "verify")
    assert len(batch) > 150
    assert len(torch.unique(batch.clean, dim=0)) < len(batch)


def test_a_modulus_of_three_still_makes_a_task() -> None:
    task = build_modular_addition(ModularAdditionConfig(modulus=3))
    assert set(task.token_text.values()) == {"0", "1", "2", "="}


def test_parity_tokens_are_bits_then_running_parities() -> None:
    task = build_parity(ParityConfig())
    batch = only(task, "verify")
    assert len(batch) >= 200
    assert task.roles == (*(f"bit{i}" for i in range(1, 9)), "eq", *(f"parity{i}" for i in range(1, 8)))
    for row, answers, foils in zip(
        batch.clean.tolist(), batch.answers.tolist(), batch.foils[..., 0].tolist(), strict=True
    ):
        running = [EVEN + sum(row[: i + 1]) % 2 for i in range(8)]
        assert row[8] == EQUALS
        assert answers == running
        assert row[9:] == running[:-1]
        assert foils == [EVEN + EVEN + 1 - answer for answer in running]


def test_strings_of_the_parity_band_occur_in_d_ood_only() -> None:
    task = build_parity(ParityConfig())
    for split in SPLITS:
        batch = only(task, split)
        high = (torch.cat([batch.clean, batch.counterfactual])[:, :3] == 1).all(1)
        assert high.all() if split == "ood" else not high.any()


def test_sorting_answers_are_the_values_in_rising_order() -> None:
    task = build_sorting(SortingConfig())
    batch = only(task, "verify")
    assert len(batch) >= 200
    assert batch.layout.answer_positions == (5, 6, 7, 8, 9)
    for row, answers in zip(batch.clean.tolist(), batch.answers.tolist(), strict=True):
        assert answers == sorted(row[:5])
        assert len(set(answers)) == 5
        assert row[5:] == [10, *answers[:-1]]


def test_the_foil_of_a_changed_rank_is_the_counterfactuals_value() -> None:
    batch = only(build_sorting(SortingConfig()), "select")
    other = batch.counterfactual[:, :5].sort(dim=1).values
    changed = other != batch.answers
    assert torch.equal(batch.foils[..., 0][changed], other[changed])


def test_the_band_value_of_sorting_occurs_in_d_ood_only() -> None:
    config = SortingConfig()
    task, band = build_sorting(config), band_value(config)
    assert 0 < band < config.n_values - 1
    for split in SPLITS:
        batch = only(task, split)
        holds = (torch.cat([batch.clean, batch.counterfactual])[:, : config.length] == band).any(1)
        assert holds.all() if split == "ood" else not holds.any()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModularAdditionConfig, {"modulus": 2}, "modulus must be between 3 and 2048, not 2"),
        (ModularAdditionConfig, {"modulus": 5000}, "modulus must be between 3 and 2048, not 5000"),
        (ModularAdditionConfig, {"modulus": "113"}, "'modulus' must be of type int, not '113'"),
        (ModularAdditionConfig, {"modulus": True}, "'modulus' must be of type int, not True"),
        (ModularAdditionConfig, {"modulo": 113}, "unknown task field 'modulo'"),
        (ModularAdditionConfig, {"n_verify": 0}, "n_verify must be at least 1, not 0"),
        (ModularAdditionConfig, {"band_share": 1.5}, "band_share must be at least 0 and below 1, not 1.5"),
        (ParityConfig, {"n_bits": 3}, "n_bits must be between 4 and 16, not 3"),
        (SortingConfig, {"length": 10}, "length must be at least 2 and below n_values, not 10 of 10"),
        (SortingConfig, {"length": 20, "n_values": 40}, "more than 200000 different sets"),
    ],
)
def test_impossible_configs_are_refused_with_the_value(kind: type[Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message.replace("(", r"\(")):
        parse_config(kind, values)
