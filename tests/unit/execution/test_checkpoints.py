"""Checkpoints: the latest whole one counts, and a finished task keeps none."""

import numpy as np

from hagd.artifacts.document import Document
from hagd.execution.checkpoints import clear_checkpoints, load_checkpoint, save_checkpoint
from hagd.testing import MemoryStore

KEY = "ef" * 32


def state(value: float) -> Document:
    return Document({"note": value}, {"weights": np.float64([value])})


def loaded_step(store: MemoryStore) -> int | None:
    there = load_checkpoint(store, KEY)
    return there[0] if there else None


def test_the_latest_checkpoint_comes_back_and_earlier_ones_take_no_room() -> None:
    store = MemoryStore()
    assert load_checkpoint(store, KEY) is None
    for step in (2, 11, 103):
        save_checkpoint(store, KEY, 1, step, state(step))
    there = load_checkpoint(store, KEY)
    assert there is not None
    assert (there[0], there[1].content, there[1].tensors["weights"].tolist()) == (103, {"note": 103}, [103.0])
    assert (len(store.blobs), len(store.objects)) == (1, 1)


def test_a_later_attempt_goes_on_from_an_earlier_one() -> None:
    store = MemoryStore()
    save_checkpoint(store, KEY, 1, 7, state(7))
    save_checkpoint(store, KEY, 2, 8, state(8))
    assert loaded_step(store) == 8


def test_an_equal_state_at_a_later_step_is_kept() -> None:
    store = MemoryStore()
    save_checkpoint(store, KEY, 1, 7, state(7))
    save_checkpoint(store, KEY, 2, 7, state(7))
    assert loaded_step(store) == 7


def test_a_damaged_checkpoint_is_passed_over() -> None:
    store = MemoryStore()
    save_checkpoint(store, KEY, 1, 7, state(7))
    store.blobs = dict.fromkeys(store.blobs, b"x")
    assert load_checkpoint(store, KEY) is None
    store.objects = dict.fromkeys(store.objects, b"x")
    assert load_checkpoint(store, KEY) is None


def test_a_finished_task_keeps_no_checkpoint() -> None:
    store = MemoryStore()
    save_checkpoint(store, KEY, 1, 7, state(7))
    clear_checkpoints(store, KEY)
    assert (store.blobs, store.objects) == ({}, {})
