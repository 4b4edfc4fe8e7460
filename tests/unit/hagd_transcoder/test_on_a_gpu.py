"""Dictionaries that were trained and measured on a GPU: the same as on the CPU, and documents like any other."""

from typing import Any

import numpy as np
import pytest

from hagd.artifacts.document import Document
from hagd.errors import CancelledError
from hagd.testing import RecordingContext
from hagd_transcoder.corpus_dictionaries import join, run, run_shard
from hagd_transcoder.corpus_estimate import estimate
from hagd_transcoder.corpus_handlers import split
from pretended_gpu import GPUS, GpuOfTest, pretended_gpu
from unit.hagd_transcoder.test_corpus_training import CONFIG, inputs

Documents = dict[str, Document]
SMALL: dict[str, Any] = {**CONFIG, "tokens": 600, "traced": 2, "shown_features": 2}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "random start, chosen over a batch": {"start": "random", "rule": "batch-topk", "n_features": 37},
    "more than neurons": {"n_features": 37, "start": "mlp"},
    "trained together at the end": {"finetune": 0.3},
    "across layers": {"kind": "cross-layer", "start": "random"},
    "across layers, tied": {"kind": "cross-layer", "decoders": "tied", "rule": "topk"},
}
TOLERANCE = 1e-3
"""Of sums of a few hundred steps, in another order."""


def same(found: Document, expected: Document) -> None:
    """Compare tensors and measures."""
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        if name != "seconds":
            np.testing.assert_allclose(found.tensors[name], tensor, rtol=TOLERANCE, atol=TOLERANCE)
    for measures in zip(layers_of(found), layers_of(expected), strict=True):
        for name in ("fvu", "fvu_linear", "l0", "dead_share", "kl_nats_alone", "error_influence", "error_credit"):
            assert measures[0][name] == pytest.approx(measures[1][name], rel=1e-2, abs=TOLERANCE), name


def layers_of(document: Document) -> list[dict[str, Any]]:
    return document.content.get("metrics", {}).get("layers", [])


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_a_gpu_trains_is_what_the_cpu_trains(gpu: GpuOfTest, kind: dict[str, Any]) -> None:
    expected = run(inputs(), {**SMALL, **kind}, RecordingContext())
    with gpu() as place:
        found = run(inputs(), {**SMALL, **kind}, RecordingContext(place=place))
    for role in ("dictionaries", "training"):
        same(found[role], expected[role])


@pytest.mark.parametrize("gpu", GPUS)
def test_products_in_bfloat16_stay_on_the_gpu(gpu: GpuOfTest) -> None:
    with gpu() as place:
        found = run(inputs(), {**SMALL, "precision": "bfloat16"}, RecordingContext(place=place))["dictionaries"]
    assert all(np.isfinite(tensor).all() for tensor in found.tensors.values())


@pytest.mark.parametrize("gpu", GPUS)
def test_shards_of_a_gpu_are_joined_on_it(gpu: GpuOfTest) -> None:
    expected, sharded = run(inputs(), SMALL, RecordingContext()), {**SMALL, "shards": 2}
    with gpu() as place:
        shards = [run_shard(inputs(), it, RecordingContext(place=place)) for it in split(sharded)]
        given = {f"{role}/{number:05d}": it for number, shard in enumerate(shards) for role, it in shard.items()}
        found = join({**inputs(), **given}, sharded, RecordingContext(place=place))
    same(found["dictionaries"], expected["dictionaries"])


@pytest.mark.parametrize("gpu", GPUS)
def test_a_run_that_was_stopped_on_the_cpu_goes_on_on_a_gpu(gpu: GpuOfTest) -> None:
    expected, stopped = run(inputs(), SMALL, RecordingContext()), RecordingContext(cancel_after=4)
    with pytest.raises(CancelledError):
        run(inputs(), SMALL, stopped)
    assert stopped.checkpoints
    with gpu() as place:
        found = run(inputs(), SMALL, RecordingContext(checkpoints=stopped.checkpoints, place=place))
    same(found["dictionaries"], expected["dictionaries"])


def test_a_gpu_is_timed_and_its_memory_counted() -> None:
    with pretended_gpu() as place:
        told = estimate(inputs(), SMALL, RecordingContext(place=place))["estimate"].content
    assert told["memory_bytes"]["held"] == 0
    assert all(seconds >= 0 for seconds in told["seconds"].values())
