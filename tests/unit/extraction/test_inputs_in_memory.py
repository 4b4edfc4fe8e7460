"""Pairs and models given in memory: kept under names of their content, so that no call spoils another one's inputs."""

from pathlib import Path

import pytest

from hagd.errors import InvalidInputError
from hagd.extraction.door import _model_path, _prompts_path

FIRST = [{"clean": "a", "counterfactual": "b", "answer": " x", "foils": [" y"]}]
SECOND = [{"clean": "c", "counterfactual": "d", "answer": " x", "foils": [" y"]}]


class Saved:
    """Stands for a model of Hugging Face."""

    def __init__(self, weights: str) -> None:
        self.weights = weights

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        Path(folder, "model.safetensors").write_text(self.weights)


def test_other_pairs_for_the_same_folder_leave_the_first_ones_alone(tmp_path: Path) -> None:
    first = _prompts_path(FIRST, tmp_path / "run")
    assert first is not None
    before = first.read_bytes()
    second = _prompts_path(SECOND, tmp_path / "run")
    assert second not in (None, first)
    assert first.read_bytes() == before
    assert _prompts_path(list(FIRST), tmp_path / "run") == first


def test_another_model_for_the_same_folder_leaves_the_first_one_alone(tmp_path: Path) -> None:
    first = _model_path(Saved("1"), None, tmp_path / "run")
    second = _model_path(Saved("2"), None, tmp_path / "run")
    assert first is not None
    assert second not in (None, first)
    assert Path(first, "model.safetensors").read_text() == "1"
    assert _model_path(Saved("1"), None, tmp_path / "run") == first
    # Nothing half-saved stays behind.
    assert len(list((tmp_path / "run.inputs").iterdir())) == 2


def test_no_pairs_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no pairs"):
        _prompts_path([], tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
