"""Train the network that ships with the package: `python -m hagd_traversal.membership.training`.

Examples are small models trained here and planted graphs. Before the final fit, networks that have not seen a task,
or a model, are compared with influence and with models without a graph; the numbers travel in the checkpoint and
stand in the model card that is written beside it.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hagd.errors import HagdError, UsageError
from hagd_traversal.membership.card import write_card
from hagd_traversal.membership.examples import Example, planted_examples
from hagd_traversal.membership.features import NODE_FEATURES
from hagd_traversal.membership.fitting import FittingConfig, calibrate, fit
from hagd_traversal.membership.network import CHECKPOINT, MembershipNetwork, save_network
from hagd_traversal.membership.subjects import RECIPES, real_examples

if TYPE_CHECKING:
    from hagd_traversal.membership.comparison import Scores

COMMAND = "python -m hagd_traversal.membership.training"
N_SEEDS = 3
N_PLANTED, N_UNSEEN_PLANTED = 48, 12
N_FOLDS = 3
_UNSEEN = 10_000
"""First seed of the planted graphs that no network is trained on."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Split:
    """One way to hold examples out."""

    name: str
    training: list[Example]
    held_out: list[Example]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, compare, calibrate and write the checkpoint; give the exit code."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    scratch = nullcontext(str(options.folder)) if options.folder else tempfile.TemporaryDirectory()
    try:
        if importlib.util.find_spec("sklearn") is None:
            raise UsageError("the comparison needs scikit-learn", "pip install 'hagd[dev]'")
        with scratch as folder:
            real = real_examples(RECIPES, Path(folder), _tell)
        network, described = train(real, options.seed, FittingConfig(steps=options.steps), _tell)
        save_network(network, options.out, described)
        write_card(described, COMMAND, options.out)
    except HagdError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n")
        return error.exit_code
    _tell(f"wrote {options.out}")
    return 0


def train(
    real: list[Example], seed: int, config: FittingConfig, tell: Tell
) -> tuple[MembershipNetwork, dict[str, Any]]:
    """Give the network fitted to all examples, calibrated, and the description that ships with it.

    Args:
        real: examples from trained models.
        seed: of the shipped network; comparisons also use the following seeds.
        config: how every network is fitted.
        tell: hears what is being done.
    """
    planted = planted_examples(range(N_PLANTED))
    unseen = planted_examples(range(_UNSEEN, _UNSEEN + N_UNSEEN_PLANTED))
    by_task = {split.name: compare(split, seed, config, tell) for split in splits_by_task(real, planted)}
    by_model, temperature, errors = cross_validate(real, planted, seed, config, tell)
    tell("fitting the network that ships")
    network = fit([*real, *planted], seed, config)
    network.temperature.data.fill_(temperature)
    described = {
        "node_features": list(NODE_FEATURES),
        "command": COMMAND,
        "seed": seed,
        "comparison_seeds": list(range(seed, seed + N_SEEDS)),
        "fitting": asdict(config),
        "examples": _list_examples(real),
        "n_planted": N_PLANTED,
        "temperature": temperature,
        "metrics": {
            "leave_one_task_out": by_task,
            "leave_one_model_out": by_model,
            "unseen_planted": compare(Split("planted", [*real, *planted], unseen), seed, config, tell, [network]),
            "calibration_error_by_level": errors,
        },
    }
    return network, described


def splits_by_task(real: Sequence[Example], planted: Sequence[Example]) -> list[Split]:
    """Hold out one task at a time; planted graphs always train."""
    return [
        Split(task, [e for e in [*real, *planted] if e.task != task], [e for e in real if e.task == task])
        for task in sorted({example.task for example in real})
    ]


def splits_by_model(real: Sequence[Example], planted: Sequence[Example]) -> list[Split]:
    """Hold out every third base model, with all its dictionaries and resolutions."""
    models = sorted({example.model for example in real})
    splits: list[Split] = []
    for fold in range(N_FOLDS):
        out = set(models[fold::N_FOLDS])
        training = [e for e in [*real, *planted] if e.model not in out]
        splits.append(Split(f"fold {fold + 1}", training, [e for e in real if e.model in out]))
    return splits


def compare(
    split: Split, seed: int, config: FittingConfig, tell: Tell, fitted: Sequence[MembershipNetwork] = ()
) -> dict[str, Any]:
    """Score held-out examples with networks of several seeds (or those given) and with the rivals."""
    from hagd_traversal.membership.comparison import (  # noqa: PLC0415 - needs scikit-learn, only to train
        influence_scores,
        network_scores,
        trained_scores,
    )

    networks = list(fitted)
    for number in range(seed, seed + N_SEEDS) if not fitted else ():
        tell(f"holding out {split.name}: fitting seed {number}")
        networks.append(fit(split.training, number, config))
    rivals = {"influence": influence_scores(split.held_out), **trained_scores(split.training, split.held_out, seed)}
    result = {"network": _summarise([network_scores(network, split.held_out) for network in networks], split.held_out)}
    result |= {name: _summarise([scores], split.held_out) for name, scores in rivals.items()}
    tell(f"{split.name}: " + ", ".join(f"{name} {value['all']['auroc']}" for name, value in result.items()))
    return result


def cross_validate(
    real: Sequence[Example], planted: Sequence[Example], seed: int, config: FittingConfig, tell: Tell
) -> tuple[dict[str, Any], float, list[float]]:
    """Hold out models in folds; give the comparison per fold, the temperature and the calibration error by level.

    The temperature is the geometric mean of those that suit each fold; the error of a fold is measured with the
    temperature of the other folds.
    """
    from hagd_traversal.membership.comparison import calibration_errors  # noqa: PLC0415 - as above

    splits = splits_by_model(real, planted)
    results: dict[str, Any] = {}
    networks: list[MembershipNetwork] = []
    for split in splits:
        tell(f"holding out models, {split.name}")
        networks.append(fit(split.training, seed, config))
        results[split.name] = compare(split, seed, config, tell, networks[-1:])
    logs = [float(np.log(calibrate(network, s.held_out))) for network, s in zip(networks, splits, strict=True)]
    errors: list[list[float]] = []
    for fold, (network, split) in enumerate(zip(networks, splits, strict=True)):
        network.temperature.data.fill_(float(np.exp(np.mean(logs[:fold] + logs[fold + 1 :]))))
        errors.append(calibration_errors(network, split.held_out))
    deepest = max(map(len, errors))
    mean = [float(np.mean([row[level] for row in errors if level < len(row)])) for level in range(deepest)]
    return results, float(np.exp(np.mean(logs))), [round(value, 4) for value in mean]


def _summarise(runs: "Sequence[Scores]", examples: Sequence[Example]) -> dict[str, dict[str, float]]:
    """Give the mean over runs, and the spread of AUROC between them."""
    from hagd_traversal.membership.comparison import quality  # noqa: PLC0415 - as above

    summary: dict[str, dict[str, float]] = {}
    for name, features_only in (("all", False), ("features", True)):
        found = [quality(scores, examples, features_only=features_only) for scores in runs]
        if found[0].n_examples:
            summary[name] = {
                "auroc": round(float(np.mean([one.auroc for one in found])), 4),
                "auroc_spread": round(float(np.std([one.auroc for one in found])), 4),
                "average_precision": round(float(np.mean([one.average_precision for one in found])), 4),
                "n_examples": found[0].n_examples,
            }
    return summary


def _list_examples(examples: Sequence[Example]) -> list[dict[str, Any]]:
    return [
        {
            "model": example.model,
            "task": example.task,
            "judged": len(example.judged[0]),
            "members": int(example.labels[0].sum()),
        }
        for example in examples
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Train the membership network.")
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="where the checkpoint goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=FittingConfig.steps, help="optimiser steps of every network")
    parser.add_argument("--folder", type=Path, help="run folder of the small models, kept for the next training")
    return parser.parse_args(arguments)


def _tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
