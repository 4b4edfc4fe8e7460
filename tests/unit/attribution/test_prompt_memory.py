"""What the run of a prompt is said to take against what it takes, and prompts that are refused for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hagd.attribution.prompt_memory import prompt_bytes, require_room
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
