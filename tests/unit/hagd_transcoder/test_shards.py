"""Layers trained in shards: the same dictionaries as by hand, layer by layer, measured together."""

from typing import Any

import pytest
import torch

from hagd.artifacts.document import Document
from hagd.artifacts.reference import ArtifactRef
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.errors import CancelledError, InvalidInputError
from hagd.models.storage import model_to_document
from hagd.pipeline.contract import shard_key
from hagd.tasks.storage import task_to_document
from hagd.testing import RecordingContext
from hagd_transcoder.dictionaries import join, run_shard
from hagd_transcoder.handlers import STAGE, split
from unit.hagd_transcoder.tiny_subjects import tiny_model, tiny_task

REF = ArtifactRef("a" * 64, 7, "application/json")
CONFIG = {"kind": "transcoder", "behaviour": 0.0, "steps": 7, "n_features": 13, "k": 5, "shards": 2}


def inputs() -> dict[str, Document]:
    return {"model": model_to_document(tiny_model(n_layers=3)), "task": task_to_document(tiny_task())}


def trained(config: dict[str, Any]) -> list[Document]:
    return [run_shard(inputs(), shard, RecordingContext())["dictionaries"] for shard in split(config)]


def test_every_layer_is_trained_by_one_shard_and_the_join_measures_all() -> None:
    parts = trained(CONFIG)
    assert [sorted(dictionaries_from_document(part)) for part in parts] == [[0, 2], [1]]
    given = {f"dictionaries/{number:05d}": part for number, part in enumerate(parts)}
    whole = join({**inputs(), **given}, CONFIG, RecordingContext())["dictionaries"]
    joined = dictionaries_from_document(whole)
    assert sorted(joined) == [0, 1, 2]
    for part in parts:
        for layer, dictionary in dictionaries_from_document(part).items():
            assert torch.equal(dictionary.w_dec, joined[layer].w_dec)
    assert len(whole.content["metrics"]["layers"]) == 3


def test_a_shard_that_was_stopped_goes_on_with_the_same_bytes() -> None:
    shard = split({**CONFIG, "steps": 20})[0]
    undisturbed = run_shard(inputs(), shard, RecordingContext())["dictionaries"].encode()
    stopped = RecordingContext(cancel_after=4)
    with pytest.raises(CancelledError):
        run_shard(inputs(), shard, stopped)
    assert stopped.checkpoints
    resumed = RecordingContext(checkpoints=stopped.checkpoints)
    assert run_shard(inputs(), shard, resumed)["dictionaries"].encode() == undisturbed


def test_shards_have_keys_of_their_own() -> None:
    refs = {"model": REF, "task": REF}
    keys = {shard_key(STAGE, refs, config) for config in split(CONFIG)}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"shards": 4}, "only 3 layers get a dictionary"), ({"behaviour": 1.0}, "all layers learn together")],
)
def test_what_cannot_be_divided_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        trained({**CONFIG, **changes})


def test_one_shard_is_the_whole() -> None:
    assert len(split({**CONFIG, "shards": 1})) == 1
    assert STAGE.resolve({"shards": 1}) == {}
