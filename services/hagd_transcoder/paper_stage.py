"""Do the work of the paper's stage: train its autoencoders on a corpus and measure them on held-out documents."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from hagd.artifacts.document import Document
from hagd.corpora.corpus import Corpus
from hagd.corpora.storage import corpus_from_document
from hagd.dictionaries.history import history_to_document
from hagd.dictionaries.paper_autoencoder import paper_to_document
from hagd.errors import InvalidInputError
from hagd.models.language_model import LanguageModel
from hagd.models.storage import model_from_document
from hagd.pipeline.contract import Config, StageContext
from hagd.pipeline.machine import available_bytes
from hagd_transcoder.domain.paper_measuring import measure_as_printed
from hagd_transcoder.domain.paper_training import PaperPlan, train_as_printed
from hagd_transcoder.paper_autoencoders import PaperConfig, read_paper_config

_WIDER: Final = 8
"""Features for each dimension of the residual stream."""
_COPIES: Final = 7
"""Of all weights: themselves, gradients, two moments; and in a checkpoint all but the gradients once more."""


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Give the documents `dictionaries` (the autoencoders, measured) and `training`. See `StageFunction`.

    Raises:
        InvalidInputError: k exceeds the features, no document is held out, or memory is too small.
        NonFiniteError: training diverged.
    """
    checked = read_paper_config(config)
    model, corpus = model_from_document(inputs["model"]), corpus_from_document(inputs["corpus"])
    plan = make_plan(checked, model, corpus)
    _require_memory(plan, model)
    train, held_out = corpus.windows("train"), corpus.windows("held-out")
    autoencoder, history = train_as_printed(model, train, plan, context)
    measured = measure_as_printed(model, autoencoder, train, held_out, context, plan.seed)
    metrics: dict[str, Any] = {
        "plan": {name: value for name, value in asdict(plan).items() if name != "checkpoints"},
        "model": dict(inputs["model"].content.get("provenance", {})),
        "corpus": dict(inputs["corpus"].content.get("provenance", {})),
        **measured,
    }
    return {"dictionaries": paper_to_document(autoencoder, metrics), "training": history_to_document(history)}


def _require_memory(plan: PaperPlan, model: LanguageModel) -> None:
    """Refuse what does not fit: the predictors have as many weights as features squared.

    Raises:
        InvalidInputError: weights, gradients and moments need more than the machine has free.
    """
    shape = model.config
    each = 2 * shape.d_model * plan.n_features + plan.n_features**2
    needed, free = _COPIES * 4 * shape.n_layers * each, available_bytes("cpu")
    if needed > free:
        raise InvalidInputError(
            f"autoencoders of {plan.n_features} features need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free",
            "lower paper-autoencoder.n_features",
        )


def make_plan(config: PaperConfig, model: LanguageModel, corpus: Corpus) -> PaperPlan:
    """Derive what the config leaves open.

    Raises:
        InvalidInputError: k exceeds the features, or the corpus has no held-out documents.
    """
    n_features = config.n_features or _WIDER * model.config.d_model
    if config.k > n_features:
        raise InvalidInputError(
            f"paper-autoencoder.k is {config.k}, but there are only {n_features} features", "lower k"
        )
    # Looked at now, so that hours of training do not end in an error.
    corpus.windows("held-out")
    windows = corpus.windows("train")
    per_window = sum(windows.bounds.diff(dim=1).flatten().tolist()) / len(windows)
    tokens = config.tokens or len(windows) * per_window
    per_step = max(1, round(min(max(config.buffer, config.batch), tokens) / per_window))
    return PaperPlan(
        n_features=n_features,
        k=config.k,
        steps=max(1, round(tokens / (per_step * per_window))),
        windows=per_step,
        updates=max(1, round(per_step * per_window / config.batch)),
        learning_rate=config.learning_rate,
        prediction=config.prediction,
        sparsity=config.sparsity,
        checkpoints=config.checkpoints,
        seed=config.seed,
    )
