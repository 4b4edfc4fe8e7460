"""What the run of a prompt is said to take against what it takes, and prompts that are refused for it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import Tensor

from hagd.attribution.prompt_memory import prompt_bytes, require_room
from hagd.attribution.replacement import Replacement
from hagd.errors import InvalidInputError
from unit.attribution.frozen_models import DICTIONARIES, frozen_prompt

TESTS = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["neurons", "cross-layer"])
def test_the_memory_of_a_run_is_told_within_a_third(kind: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "unit.attribution.prompt_process", kind, "1301"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["told"] == pytest.approx(found["taken"], rel=1 / 3)


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_a_prompt_that_does_not_fit_is_refused_with_the_longest_that_does(kind: str) -> None:
    frozen = frozen_prompt("llama", kind)
    model, replacement = frozen.model, frozen.replacement
    room = prompt_bytes(model, replacement, 613)
    require_room(model, replacement, 613, room)
    with pytest.raises(InvalidInputError, match="running 614 tokens takes about") as refused:
        require_room(model, replacement, 614, room)
    assert refused.value.hint == "give a prompt of at most 613 tokens"
    with pytest.raises(InvalidInputError) as refused:
        require_room(model, replacement, 614, 100)
    assert "more memory" in refused.value.hint


@pytest.mark.parametrize("kind", ["plain", "cross-layer"])
def test_activations_with_their_zeros_wait_only_for_layers_that_look_at_them(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    decode = Replacement.decode

    def counted(self: Replacement, layer: int, features: Mapping[int, Tensor], x: Tensor) -> Tensor:
        held.append(len(features))
        return decode(self, layer, features, x)

    monkeypatch.setattr(Replacement, "decode", counted)
    frozen_prompt("llama", kind)
    assert held == ([1, 2, 3] if kind == "cross-layer" else [1, 1, 1])
