"""Training base models: exact forward, honest hold-out, determinism, resumption, and the gate."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from hagd.errors import AccuracyGateError, CancelledError, NonFiniteError, UnknownNameError
from hagd.tasks.configs import ModularAdditionConfig, ParityConfig, SortingConfig
from hagd.testing import RecordingContext
from hagd_transcoder.domain.base_models import (
    CHECKPOINT_EVERY,
    BaseModel,
    accuracy,
    answer_logits,
    make_module,
    train_base_model,
)
from hagd_transcoder.domain.exercises import Exercise, exercise_for

CONFIGS: dict[str, Any] = {
    "modular-addition": ModularAdditionConfig(modulus=13),
    "parity": ParityConfig(n_bits=5),
    "sorting": SortingConfig(length=3, n_values=7),
}


def addition(modulus: int = 31, **changes: Any) -> Exercise:
    exercise = exercise_for("modular-addition", ModularAdditionConfig(modulus=modulus), seed=0)
    return replace(exercise, recipe=replace(exercise.recipe, **changes))


@pytest.fixture(scope="module")
def trained() -> tuple[BaseModel, RecordingContext]:
    context = RecordingContext()
    return train_base_model(addition(), 0, context), context


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_route_gives_the_modules_own_logits(name: str) -> None:
    exercise = exercise_for(name, CONFIGS[name], seed=0)
    module = make_module(exercise, seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
        tokens = exercise.tokens[:29]
        expected = module(tokens).logits[:, list(exercise.layout.answer_positions)]
        found = answer_logits(module, tokens, exercise.layout.answer_positions)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_about_the_planned_share_is_practised_and_something_is_held_out(name: str) -> None:
    exercise = exercise_for(name, CONFIGS[name], seed=1)
    share = 1 - exercise.held_out.double().mean().item()
    assert share == pytest.approx(exercise.recipe.train_share, abs=0.25)
    assert 0 < int(exercise.held_out.sum()) < len(exercise.held_out)


def test_twins_are_held_out_together() -> None:
    exercise = addition(13)
    held_out = exercise.held_out.view(13, 13)
    assert torch.equal(held_out, held_out.T)


def test_orders_of_one_set_are_held_out_together() -> None:
    exercise = exercise_for("sorting", SortingConfig(length=3, n_values=7), seed=2)
    sides: dict[tuple[int, ...], set[bool]] = {}
    for answers, held_out in zip(exercise.answers.tolist(), exercise.held_out.tolist(), strict=True):
        sides.setdefault(tuple(answers), set()).add(held_out)
    assert len(sides) == 35
    assert all(len(side) == 1 for side in sides.values())


def test_a_set_without_which_an_answer_is_unknown_is_always_practised() -> None:
    for seed in range(7):
        exercise = exercise_for("sorting", SortingConfig(length=3, n_values=7), seed)
        held_out = {tuple(row) for row in exercise.answers[exercise.held_out].tolist()}
        assert not held_out & {(0, 1, 2), (4, 5, 6)}


def test_training_reaches_the_gate_on_held_out_prompts(trained: tuple[BaseModel, RecordingContext]) -> None:
    base, context = trained
    exercise = addition()
    assert base.held_out_accuracy == accuracy(base.module, exercise, exercise.held_out) >= 0.99
    assert base.train_share == 0.8
    assert any("held out" in message for _, _, message in context.reports)


def test_training_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    make_module(addition(13), seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_interrupted_training_goes_on_to_the_same_bytes(trained: tuple[BaseModel, RecordingContext]) -> None:
    whole, context = trained
    assert CHECKPOINT_EVERY in context.checkpoints
    resumed = RecordingContext(checkpoints={CHECKPOINT_EVERY: context.checkpoints[CHECKPOINT_EVERY]})
    base = train_base_model(addition(), 0, resumed)
    assert base.steps == whole.steps
    for (name, weight), other in zip(whole.module.named_parameters(), base.module.parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_minibatches_resume_to_the_same_bytes_too() -> None:
    exercise = addition(13, batch=31, steps=15, cooldown=5)
    wrong = replace(exercise, answers=(exercise.tokens[:, :1] * exercise.tokens[:, 1:2]) % 13)
    first = RecordingContext()
    with pytest.raises(AccuracyGateError):
        train_base_model(wrong, 0, first)
    second = RecordingContext(checkpoints={2 * CHECKPOINT_EVERY: first.checkpoints[2 * CHECKPOINT_EVERY]})
    with pytest.raises(AccuracyGateError) as caught:
        train_base_model(wrong, 0, second)
    assert first.reports[-1] == second.reports[-1]
    assert "60 steps" in caught.value.message


def test_a_model_below_the_gate_is_an_error_with_its_accuracy() -> None:
    with pytest.raises(AccuracyGateError, match=r"answers \d+\.\d+% of the held-out prompts after 12 steps; 99%"):
        train_base_model(addition(13, steps=3), 0, RecordingContext())


def test_a_diverging_training_is_an_error() -> None:
    with pytest.raises(NonFiniteError, match="loss is not finite"):
        train_base_model(addition(13, learning_rate=1e38, weight_decay=0.0), 0, RecordingContext())


def test_training_stops_when_asked_to() -> None:
    with pytest.raises(CancelledError):
        train_base_model(addition(13), 0, RecordingContext(cancel_after=1))


def test_a_text_task_has_no_base_model() -> None:
    with pytest.raises(UnknownNameError, match="task 'ioi' has no base model"):
        exercise_for("ioi", None, seed=0)


def test_every_step_between_neighbouring_values_is_practised_at_its_rank() -> None:
    for seed in range(7):
        exercise = exercise_for("sorting", SortingConfig(length=4, n_values=9), seed)
        practised = set(_steps(exercise.answers[~exercise.held_out]))
        alone = {step for step, n_sets in _sets_by_step(exercise).items() if n_sets == 1}
        assert alone <= practised


def _steps(answers: torch.Tensor) -> list[tuple[int, int, int]]:
    return [(rank, row[rank], row[rank + 1]) for row in answers.tolist() for rank in range(len(row) - 1)]


def _sets_by_step(exercise: Exercise) -> Counter[tuple[int, int, int]]:
    return Counter(_steps(torch.unique(exercise.answers, dim=0)))
