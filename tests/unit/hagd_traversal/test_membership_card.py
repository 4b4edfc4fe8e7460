"""The model card says what the checkpoint says of itself."""

from pathlib import Path
from typing import Any

from hagd_traversal.membership.card import CARD, describe_checkpoint, render_card, write_card
from hagd_traversal.membership.training import COMMAND


def scored(auroc: float, spread: float = 0.0) -> dict[str, Any]:
    return {"all": {"auroc": auroc, "auroc_spread": spread, "average_precision": 0.5, "n_examples": 7}}


def described() -> dict[str, Any]:
    result = {"network": scored(0.91, 0.013), "influence": scored(0.8), "logistic": scored(0.7), "boosting": {}}
    return {
        "seed": 3,
        "comparison_seeds": [3, 4, 5],
        "fitting": {"steps": 120, "together": 4},
        "examples": [
            {"model": "parity-seed0", "task": "parity", "judged": 101, "members": 13},
            {"model": "parity-seed0", "task": "parity", "judged": 11, "members": 2},
        ],
        "n_planted": 48,
        "metrics": {
            "leave_one_task_out": {"parity": result},
            "leave_one_model_out": {"fold 1": result},
            "unseen_planted": result,
            "calibration_error_by_level": [0.0417, 0.1],
        },
    }


def test_the_card_that_ships_is_that_of_the_checkpoint_that_ships() -> None:
    assert CARD.read_text() == render_card(describe_checkpoint(), COMMAND)


def test_what_was_measured_stands_in_tables(tmp_path: Path) -> None:
    lines = write_card(described(), COMMAND, tmp_path / "own.safetensors").read_text().splitlines()

    assert (tmp_path / "MODEL_CARD.md").is_file()
    assert "| parity | 1 | 2 | 112 | 15 |" in lines
    assert "| task parity | 7 | 0.910 ± 0.013 | 0.800 | 0.700 | - |" in lines
    assert "| models, fold 1 | 7 | 0.910 ± 0.013 | 0.800 | 0.700 | - |" in lines
    assert "| planted graphs | 7 | 0.910 ± 0.013 | 0.800 | 0.700 | - |" in lines
    assert any("0.042, 0.100" in line for line in lines)
