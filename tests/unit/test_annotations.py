"""Tests run with their annotations checked: if the hook were lost, every wrong shape would pass unseen."""

import tomllib
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from hagd.dictionaries.metrics import fraction_unexplained, mean_active, recovered_share

ROOT = Path(__file__).parents[2]


def test_a_tensor_of_the_wrong_shape_is_refused() -> None:
    assert mean_active(torch.ones(3, 5)) == 5
    with pytest.raises(TypeCheckError, match="token d_feature"):
        mean_active(torch.ones(3))


def test_one_axis_has_one_size_within_a_call() -> None:
    with pytest.raises(TypeCheckError, match="d_model"):
        fraction_unexplained(torch.ones(3, 5), torch.ones(3, 1))


def test_a_whole_number_is_good_enough_for_a_float() -> None:
    assert recovered_share(0, 0, 2) == 1


def test_everything_that_must_stay_pure_mathematics_is_checked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    (option,) = (it for it in settings["pytest"]["ini_options"]["addopts"] if it.startswith("--jaxtyping-packages="))
    checked = option.partition("=")[2].split(",")
    (contract,) = (it for it in settings["importlinter"]["contracts"] if it["name"].startswith("Mathematics is pure"))

    assert [name for name in contract["source_modules"] if not {name, name.partition(".")[0]} & set(checked)] == []
