"""How well circuits preserve a behaviour: agreement, metric and KL per prompt, under any setting of the headline.

`prepare` runs the plain model once per prompt set and keeps the donors; `evaluate` then scores any number of
circuits. All numbers are per prompt, so that bootstraps and tests can follow; unpaired donors are averaged over
their fixed draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hagd.interventions.activations import Activations, Subject, record
from hagd.interventions.engine import ErrorSetting, run_circuit
from hagd.interventions.gates import Gates
from hagd.interventions.universe import Universe
from hagd.tasks.donors import DRAWS, draw_donors
from hagd.tasks.task import PromptBatch, Split, Task

Ablation = Literal["counterfactual", "unpaired", "mean", "zero"]
_FLOATS_AT_ONCE = 1 << 22
"""Elements of the largest intermediate tensor of one chunk; bounds memory, not results."""


@dataclass(frozen=True)
class Setting:
    """One way to replace what lies outside the circuit. The defaults are the headline's."""

    ablation: Ablation
    errors: ErrorSetting = "corrupted"
    attention: Literal["live", "frozen"] = "live"
    heads_outside: Literal["corrupted", "live"] = "corrupted"
    tokens_outside: Literal["corrupted", "clean"] = "corrupted"


HEADLINE: tuple[Setting, ...] = (Setting("counterfactual"), Setting("unpaired"))


@dataclass(frozen=True)
class PreparedBatch:
    """Prompts of one layout with the model's own runs on them and on their donors."""

    batch: PromptBatch
    clean: Activations
    counterfactual: Activations
    draws: tuple[Int[Tensor, " batch"], ...]
    mean: Activations
    zero: Activations

    def donors(self, ablation: Ablation, index: Int[Tensor, " kept"]) -> list[Activations]:
        """Give the donor runs of some prompts: one, or one per fixed draw."""
        match ablation:
            case "counterfactual":
                return [self.counterfactual.take(index)]
            case "unpaired":
                return [self.clean.take(draw[index]) for draw in self.draws]
            case "mean":
                return [self.mean]
            case "zero":
                return [self.zero]


@dataclass(frozen=True)
class Prepared:
    """All prompts of one split, ready to be intervened on."""

    subject: Subject
    universe: Universe
    batches: tuple[PreparedBatch, ...]
    judged: Literal["vocabulary", "choices"]

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Group id of every prompt, in the order of all results."""
        return tuple(group for prepared in self.batches for group in prepared.batch.groups)

    @cached_property
    def accuracy(self) -> Bool[Tensor, " prompt"]:
        """Whether the model itself answers each prompt rightly at all answer positions."""
        return torch.cat([self._right(p.batch, p.clean.logits, p.batch.answers) for p in self.batches])

    @cached_property
    def metric(self) -> Float[Tensor, " prompt"]:
        """The model's own metric per prompt."""
        return torch.cat([metric(p.clean.logits, p.batch) for p in self.batches])

    def _right(self, batch: PromptBatch, logits: Tensor, answers: Tensor) -> Tensor:
        return (choose(logits, batch, self.judged) == answers).all(-1)


@dataclass(frozen=True)
class Outcome:
    """Per-prompt results of one or more circuits under one setting."""

    agreement: Float[Tensor, "*circuit prompt"]
    """1 where all answer positions agree with the model's own choice; a mean over donor draws."""
    metric: Float[Tensor, "*circuit prompt"]
    kl_nats: Float[Tensor, "*circuit prompt"]
    """KL(model || circuit), summed over answer positions."""


def metric(logits: Float[Tensor, "*circuit batch answer vocab"], batch: PromptBatch) -> Float[Tensor, "*circuit batch"]:
    """Give logit[answer] - mean logit[foils], averaged over answer positions."""
    shape = logits.shape[:-1]
    right = logits.gather(-1, batch.answers[..., None].expand(*shape, 1)).squeeze(-1)
    wrong = logits.gather(-1, batch.foils.expand(*shape, batch.foils.shape[-1])).mean(-1)
    return (right - wrong).mean(-1)


def choose(
    logits: Float[Tensor, "*circuit batch answer vocab"], batch: PromptBatch, judged: str
) -> Int[Tensor, "*circuit batch answer"]:
    """Give the token chosen at every answer position."""
    if judged == "vocabulary":
        return logits.argmax(-1)
    options = torch.cat([batch.answers[..., None], batch.foils], dim=-1)
    options = options.expand(*logits.shape[:-1], options.shape[-1])
    best = logits.gather(-1, options).argmax(-1, keepdim=True)
    return options.gather(-1, best).squeeze(-1)


def divergence(
    reference: Float[Tensor, "batch answer vocab"], logits: Float[Tensor, "*circuit batch answer vocab"]
) -> Float[Tensor, "*circuit batch"]:
    """Give KL(reference || logits) in nats, summed over answer positions."""
    log_reference = reference.log_softmax(-1)
    return (log_reference.exp() * (log_reference - logits.log_softmax(-1))).sum((-1, -2))


def prepare(
    subject: Subject,
    universe: Universe,
    task: Task,
    split: Split,
    *,
    seed: int,
    most: int | None = None,
    keep_patterns: bool = False,
    mean_from: Prepared | None = None,
) -> Prepared:
    """Run the plain model on a split and draw the donors.

    `most` keeps the first prompts of each batch, in equal shares. Mean ablation uses the mean over `mean_from`
    (the discovery prompts) where layouts agree, else over the split itself.
    """
    batches = task.batches[split]
    share = None if most is None else -(-most // len(batches))
    prepared = []
    for whole in batches:
        batch = whole if share is None or len(whole) <= share else whole.take(torch.arange(share))
        at = batch.layout.answer_positions
        clean = _record_in_parts(subject, batch.clean, at, keep_patterns)
        counterfactual = _record_in_parts(subject, batch.counterfactual, at, False)
        draws = tuple(draw_donors(batch, draw, seed) for draw in range(DRAWS))
        mean = _mean_of(mean_from, batch) or clean.mean()
        prepared.append(PreparedBatch(batch, clean, counterfactual, draws, mean, clean.zero(subject)))
    return Prepared(subject, universe, tuple(prepared), task.judged)


def _mean_of(prepared: Prepared | None, batch: PromptBatch) -> Activations | None:
    if prepared is None:
        return None
    return next((p.mean for p in prepared.batches if p.batch.layout == batch.layout), None)


def _record_in_parts(subject: Subject, tokens: Tensor, at: Sequence[int], keep_patterns: bool) -> Activations:
    widest = max([subject.model.config.d_mlp, *(d.n_features for d in subject.dictionaries.values())])
    part = max(1, _FLOATS_AT_ONCE // (tokens.shape[1] * widest))
    runs = [record(subject, chunk, at, keep_patterns=keep_patterns) for chunk in tokens.split(part)]
    return runs[0] if len(runs) == 1 else concatenate(runs)


def concatenate(runs: Sequence[Activations]) -> Activations:
    """Join runs along the prompts."""

    def over(field: str) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*(getattr(run, field) for run in runs), strict=True))

    def under(field: str) -> Mapping[int, Tensor]:
        return {layer: torch.cat([getattr(run, field)[layer] for run in runs]) for layer in getattr(runs[0], field)}

    return Activations(
        torch.cat([run.embed for run in runs]),
        over("heads"),
        over("attention_out"),
        over("patterns"),
        over("mlp_in"),
        over("mlp_out"),
        under("features"),
        under("errors"),
        under("skips"),
        torch.cat([run.logits for run in runs]),
    )


@torch.no_grad()
def evaluate(
    prepared: Prepared,
    circuits: Float[Tensor, "*circuit node"],
    setting: Setting,
    on_part: Callable[[float], None] | None = None,
) -> Outcome:
    """Score circuits (vectors over the universe) on every prompt of `prepared` under one setting.

    `on_part` hears the share done.
    """
    lead = circuits.shape[:-1]
    flat = circuits.reshape(-1, circuits.shape[-1])
    parts = [_evaluate_batch(prepared, p, flat, setting, on_part) for p in prepared.batches]
    joined = [torch.cat(results, dim=-1).reshape(*lead, -1) for results in zip(*parts, strict=True)]
    return Outcome(*joined)


def _evaluate_batch(
    prepared: Prepared,
    prompts: PreparedBatch,
    circuits: Float[Tensor, "circuit node"],
    setting: Setting,
    on_part: Callable[[float], None] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    config = prepared.subject.model.config
    features = [dictionary.n_features for dictionary in prepared.subject.dictionaries.values()]
    one = prompts.batch.clean.shape[1] * max([config.d_mlp, config.d_model, *features])
    together = max(1, _FLOATS_AT_ONCE // one)
    index_parts = torch.arange(len(prompts.batch)).split(together)
    circuit_parts = circuits.split(max(1, together // len(index_parts[0])))
    rows: list[list[tuple[Tensor, Tensor, Tensor]]] = []
    for number, some in enumerate(circuit_parts):
        values = some[0] if len(some) == 1 else some
        gates = share_equal(apply_setting(prepared.universe.gates_at(values, prompts.batch.layout), setting))
        rows.append([_score(prepared, prompts, gates, setting, index, len(some)) for index in index_parts])
        if on_part is not None:
            on_part((number + 1) / len(circuit_parts))
    joined = [torch.cat([torch.cat([part[i] for part in row], dim=-1) for row in rows]) for i in range(3)]
    return joined[0], joined[1], joined[2]


def apply_setting(gates: Gates, setting: Setting) -> Gates:
    """Set the gates that a side setting keeps live whatever the circuit."""
    tokens = torch.ones_like(gates.tokens) if setting.tokens_outside == "clean" else gates.tokens
    heads = torch.ones_like(gates.heads) if setting.heads_outside == "live" else gates.heads
    return Gates(tokens, heads, gates.mlps, gates.features, gates.errors, gates.skips, gates.refined)


def share_equal(gates: Gates) -> Gates:
    """Drop the circuit axis where all circuits agree, so that what they share is computed once. Exact."""

    def share(gate: Tensor, axes: int) -> Tensor:
        batched = gate.dim() > axes and not gate.requires_grad
        return gate[0, 0] if batched and bool((gate == gate[:1]).all()) else gate

    return Gates(
        share(gates.tokens, 1),
        share(gates.heads, 3),
        share(gates.mlps, 2),
        {layer: share(gate, 2) for layer, gate in gates.features.items()},
        share(gates.errors, 2),
        share(gates.skips, 2),
        gates.refined,
    )


def _score(
    prepared: Prepared,
    prompts: PreparedBatch,
    gates: Gates,
    setting: Setting,
    index: Int[Tensor, " kept"],
    n_circuits: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score one chunk; results are [circuit, prompt]."""
    batch, reference = prompts.batch.take(index), prompts.clean.logits[index]
    patterns = None
    if setting.attention == "frozen":
        patterns = tuple(pattern[index] for pattern in prompts.clean.patterns)
    own_choice = choose(reference, batch, prepared.judged)
    totals = [torch.zeros(n_circuits, len(index)) for _ in range(3)]
    donors = prompts.donors(setting.ablation, index)
    for donor in donors:
        run = run_circuit(
            prepared.subject,
            batch.clean,
            batch.layout.answer_positions,
            donor,
            gates,
            errors=setting.errors,
            patterns=patterns,
        )
        logits = run.logits.expand(n_circuits, *reference.shape)
        agree = (choose(logits, batch, prepared.judged) == own_choice).all(-1).float()
        for total, value in zip(totals, (agree, metric(logits, batch), divergence(reference, logits)), strict=True):
            total += value / len(donors)
    return totals[0], totals[1], totals[2]
