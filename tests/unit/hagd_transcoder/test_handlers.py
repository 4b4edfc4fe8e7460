"""The config of the transcoder stage: what it refuses, and what enters the task key."""

import subprocess
import sys
from typing import Any

import pytest

from hagd.errors import InvalidInputError
from hagd_transcoder.handlers import STAGE, resolve


def test_the_stage_loads_without_torch() -> None:
    code = "import sys, hagd_transcoder.handlers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_fields_at_their_default_stay_out_of_the_key() -> None:
    assert resolve({}) == {}
    assert resolve({"kind": "auto", "seed": 0, "k": None, "auxiliary": 1 / 32}) == {}
    assert resolve({"k": 8, "layers": [2, 0]}) == {"k": 8, "layers": [2, 0]}


def test_the_stage_names_what_it_reads_and_writes() -> None:
    assert (STAGE.id, STAGE.inputs, STAGE.outputs) == ("transcoder", ("model", "task"), ("dictionaries",))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "sparse"}, r"transcoder\.kind: .*got 'sparse'"),
        ({"k": 0}, r"transcoder\.k: .*greater than 0 \(got 0\)"),
        ({"n_features": -5}, r"transcoder\.n_features"),
        ({"k": 9, "n_features": 8}, "k is 9, but there are only 8 features"),
        ({"learning_rate": float("nan")}, r"transcoder\.learning_rate"),
        ({"rate": 1.0}, r"transcoder\.rate"),
        ({"layers": []}, "layers names"),
        ({"layers": [1, 1]}, "layers names"),
        ({"layers": [-1]}, r"transcoder\.layers\.0"),
        ({"features": 8}, r"transcoder\.features is no field"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_its_field(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        resolve(config)
