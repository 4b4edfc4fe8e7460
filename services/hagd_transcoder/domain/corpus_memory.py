"""What training on a corpus holds in memory, in closed form, so that a run that cannot fit is refused at its beginning.

Phases follow each other: finding where to start, steps of each layer alone, steps of all together, keeping a
checkpoint, measuring. Each is counted above what the process holds before it begins (interpreter, model, corpus), and
the largest counts. Only what grows with the plan is counted. Processes that train together each hold all of what
learns, with a model, a corpus and an interpreter of their own, and a part of what an update reads; they are gone when
it is measured.
"""

from dataclasses import dataclass
from typing import Final

from hagd.corpora.corpus import Windows
from hagd.errors import InvalidInputError
from hagd.models.language_model import LanguageModel
from hagd.models.weights import named_tensors
from hagd_transcoder.domain.corpus_evaluation import BATCH_TOKENS
from hagd_transcoder.domain.corpus_plan import SCALE_TOKENS, CorpusPlan
from hagd_transcoder.domain.sparse.trainer import is_dense

_FLOAT: Final = 4
_DOUBLE: Final = 8
_LIVE: Final = 4
"""Copies of the weights while they learn: themselves, their gradients, two moments."""
_KEPT: Final = 3
"""Copies while a checkpoint is kept: weights and moments as arrays."""
_STORED: Final = 2
"""Copies while the result is: the one that training gave, and one whose tensors lie as they are written."""
_SPARSE: Final = 3
_DENSE: Final = 9
"""Tensors of tokens by features that a step holds on either path."""
_PER_KEPT: Final = 16
"""Numbers of four bytes that the sparse path holds for every kept activation."""
_PER_UPDATED: Final = 6
"""Vectors of one layer that an update of a transcoder across layers holds for every token, beside the two that the
whole run holds: both sides, what is left, its gradient, and what a tied code is decoded to."""
_RESIDUALS: Final = 16
_PATTERNS: Final = 3
"""Tensors like the residual, and like a layer's attention patterns, that autograd keeps of every layer."""
_FOLLOWING: Final = 5
"""Tensors of tokens by vocabulary while the divergence is differentiated."""
_VOCABULARIES: Final = 6
"""Tensors of tokens by vocabulary while replaced MLPs are measured: three runs, and the divergence of two."""
_PROCESS: Final = 550 * 2**20
"""Bytes of a process that has only loaded what it needs."""
_SHARE: Final = 0.9
"""Of the memory that is there, what may be used."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes above what the process holds beforehand, by phase."""

    start: int
    steps: int
    finetuning: int
    checkpoint: int
    measuring: int

    @property
    def peak_bytes(self) -> int:
        return max(self.start, self.steps, self.finetuning, self.checkpoint, self.measuring)


def training_memory(
    plan: CorpusPlan, model: LanguageModel, windows: Windows, *, trained: int | None = None, workers: int = 1
) -> TrainingMemory:
    """Count the bytes of a plan.

    Args:
        plan: what is trained.
        model: whose MLPs they are.
        windows: what is trained on.
        trained: layers that one worker trains, where shards divide them; all of the plan when None.
        workers: processes that train together.
    """
    if plan.decoders != "own":
        return _memory_across(plan, model, windows, workers)
    context = windows.corpus.context
    layer, n_layers = _weight_bytes(plan, model), len(plan.layers)
    own = (n_layers if trained is None else trained) * layer
    tokens, scale = plan.windows * context, min(SCALE_TOKENS, len(windows) * context)
    read, finetuned = -(-plan.windows // workers) * context, -(-plan.finetune_windows // workers) * context
    offered = _offered_bytes(plan, -(-tokens // plan.updates), workers)
    step = _step_bytes(plan, -(-read // plan.updates)) + offered
    together = (_LIVE + 1) * own + _finetuning_bytes(plan, model, context, finetuned) + offered
    others = (workers - 1) * _other_bytes(model, windows)
    return TrainingMemory(
        start=others + workers * (own + layer + _run_bytes(model, scale, context)),
        steps=others + workers * (_LIVE * own + _run_bytes(model, read, context) + step),
        finetuning=others + workers * together if plan.finetune_steps else 0,
        checkpoint=others + (workers * _LIVE + (_KEPT if plan.steps > 1 else 0)) * own,
        measuring=n_layers * layer * 4 // 3
        + max(_measuring_bytes(plan, model, context, n_layers, 3), _STORED * n_layers * layer),
    )


def _memory_across(plan: CorpusPlan, model: LanguageModel, windows: Windows, workers: int) -> TrainingMemory:
    """Count the bytes of a transcoder across layers, which learns whole."""
    shape, context, n_layers = model.config, windows.corpus.context, model.config.n_layers
    n_features, tokens = plan.start.n_features, -(-plan.windows // workers) * context
    scale, updated = min(SCALE_TOKENS, len(windows) * context), -(-tokens // plan.updates)
    triangle = n_layers * (n_layers + 1) // 2
    beside = n_layers * (n_features + shape.d_model + (shape.d_model**2 if plan.start.skip else 0))
    encoders, block = n_layers * n_features * shape.d_model, n_features * shape.d_model
    # Each layer has units of its own, so that what is stored of tied decoders is not tied.
    stored = (encoders + triangle * block + beside) * _FLOAT
    own = stored if plan.decoders == "untied" else (encoders + n_layers * block + beside) * _FLOAT
    sides = n_layers * (2 * tokens + _PER_UPDATED * updated) * shape.d_model * _FLOAT
    decoded = (triangle + n_layers) * updated * shape.d_model * _FLOAT if plan.decoders == "untied" else 0
    codes = _code_bytes(plan, updated, n_layers) + _step_bytes(plan, updated) + decoded
    codes += _offered_bytes(plan, -(-plan.windows * context // plan.updates), workers)
    others = (workers - 1) * _other_bytes(model, windows)
    # Every member ends with the transcoder as it is stored, before the first goes on alone.
    kept = (workers * _LIVE + (_KEPT if plan.steps > 1 else 0)) * own
    return TrainingMemory(
        start=others + workers * (own + n_layers * block * _FLOAT + _run_bytes(model, scale, context)),
        steps=others + workers * (_LIVE * own + sides + max(_run_bytes(model, tokens, context), codes)),
        finetuning=0,
        checkpoint=others + max(kept, workers * (_LIVE * own + stored)),
        # The transcoder and the control, whose decoders are its own.
        measuring=2 * stored + max(_measuring_bytes(plan, model, context, n_layers, 3 + n_layers), _STORED * stored),
    )


def usable_bytes(available_bytes: int) -> int:
    """Give what training may fill of the memory that is there: the rest is for what the count leaves out."""
    return int(_SHARE * available_bytes)


def require_memory(found: TrainingMemory, available_bytes: int) -> None:
    """Refuse training that does not fit into the memory that is there.

    Raises:
        InvalidInputError: says how much is missing and what takes less.
    """
    there = usable_bytes(available_bytes)
    if found.peak_bytes > there:
        raise InvalidInputError(
            f"training takes about {found.peak_bytes / 2**30:.1f} GiB more, and {there / 2**30:.1f} GiB are there",
            "train fewer features, smaller batches or, unless they learn across layers, fewer layers at a time "
            "(corpus-transcoder.layers, shards)",
        )


def _weight_bytes(plan: CorpusPlan, model: LanguageModel) -> int:
    """Give the bytes of one layer's weights."""
    shape, matrices = model.config, 3 if plan.start.gated else 2
    rows = plan.start.n_features * (matrices * shape.d_model + matrices - 1)
    return (rows + shape.d_model + (shape.d_model**2 if plan.start.skip else 0)) * _FLOAT


def _run_bytes(model: LanguageModel, tokens: int, context: int) -> int:
    """Give the bytes that the run of the model holds in one layer: residuals, and the MLP's or attention's own."""
    shape = model.config
    return tokens * (10 * shape.d_model + max(4 * shape.d_mlp, 3 * shape.n_heads * context)) * _FLOAT


def _measuring_bytes(plan: CorpusPlan, model: LanguageModel, context: int, n_layers: int, codes: int) -> int:
    """Give the bytes that measuring holds beside the weights, with so many tensors of tokens by features."""
    shape = model.config
    least_squares = n_layers * 5 * shape.d_model**2 * _DOUBLE
    vocabularies = _VOCABULARIES * BATCH_TOKENS * shape.vocab_size * _FLOAT
    encoded = codes * BATCH_TOKENS * plan.start.n_features * _FLOAT
    return least_squares + vocabularies + _run_bytes(model, BATCH_TOKENS, context) + encoded


def _code_bytes(plan: CorpusPlan, tokens: int, n_layers: int) -> int:
    """Give the bytes that the codes of all layers hold at once, at their worst."""
    n_features = plan.start.n_features
    found = 0
    for k in (plan.k_start, plan.k):
        if is_dense(k, n_features, half=plan.half):
            # Value and slope, and a mark of what is kept.
            found = max(found, (2 * (_FLOAT // 2 if plan.half else _FLOAT) + 1) * tokens * n_features)
        else:
            found = max(found, _PER_KEPT * tokens * k * _FLOAT)
    return n_layers * found


def _step_bytes(plan: CorpusPlan, tokens: int) -> int:
    """Give the bytes that the step of one layer holds beside its weights, at its worst."""
    n_features = plan.start.n_features
    found = 0
    for k in (plan.k_start, plan.k):
        if is_dense(k, n_features, half=plan.half):
            found = max(found, _DENSE * tokens * n_features * (_FLOAT // 2 if plan.half else _FLOAT))
        else:
            cells = _SPARSE * tokens * n_features // (2 if plan.half else 1) + _PER_KEPT * tokens * k
            found = max(found, cells * _FLOAT)
    return found


def _offered_bytes(plan: CorpusPlan, updated: int, workers: int) -> int:
    """Give the bytes of the scores that processes show each other where all tokens of an update compete."""
    return (2 * workers + 1) * plan.k_start * updated * _FLOAT if workers > 1 and plan.rule == "batch-topk" else 0


def _other_bytes(model: LanguageModel, windows: Windows) -> int:
    """Give the bytes of another process before it learns anything: interpreter, model and corpus."""
    weights = sum(tensor.nbytes for tensor in named_tensors(model).values())
    return _PROCESS + weights + windows.corpus.tokens.nbytes + windows.bounds.nbytes


def _finetuning_bytes(plan: CorpusPlan, model: LanguageModel, context: int, tokens: int) -> int:
    """Give the bytes that an update of all layers together holds beside weights, with so many tokens: autograd keeps
    what each layer did."""
    shape = model.config
    residuals, patterns = _RESIDUALS * shape.d_model, _PATTERNS * shape.n_heads * context
    by_layer = shape.n_layers * (residuals + patterns) + len(plan.layers) * _PER_KEPT * plan.k
    return tokens * (by_layer + _FOLLOWING * shape.vocab_size) * _FLOAT + _step_bytes(plan, tokens)
