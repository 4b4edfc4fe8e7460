"""The prompts on which circuits are judged, with the model's own numbers on them and a bill of what was run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hagd.interventions.engine import ErrorSetting
from hagd.interventions.evaluation import HEADLINE, Outcome, Prepared, PreparedBatch, Setting, concatenate, evaluate

OnPart = Callable[[float], None]


@dataclass
class Bill:
    """Causal evaluations: one prompt through one forward."""

    spent: int = 0


@dataclass(frozen=True)
class Scores:
    """Per-prompt results of one circuit under one setting."""

    setting: Setting
    agreement: Float[np.ndarray, " prompt"]
    metric: Float[np.ndarray, " prompt"]
    kl_nats: Float[np.ndarray, " prompt"]

    @property
    def preserved(self) -> float:
        """Behavioural preservation."""
        return float(self.agreement.mean())


@dataclass(frozen=True)
class Panel:
    """Prepared prompts of one split. Runs of the empty circuit are kept, since every measure needs them."""

    prepared: Prepared
    metric: Float[np.ndarray, " prompt"]
    """The model's own metric."""
    right: Bool[np.ndarray, " prompt"]
    """Whether the model answers rightly."""
    groups: tuple[str, ...]
    bill: Bill = field(default_factory=Bill)
    _empty: dict[Setting, Scores] = field(default_factory=dict[Setting, Scores])

    @staticmethod
    def of(prepared: Prepared, bill: Bill) -> "Panel":
        """Judge on all prompts of a split."""
        bill.spent += 2 * len(prepared.groups)
        return Panel(prepared, as_array(prepared.metric), prepared.accuracy.numpy(), prepared.groups, bill)

    def __len__(self) -> int:
        return len(self.groups)

    def first(self, most: int, draws: int | None = None) -> "Panel":
        """Keep the first prompts of each layout, in equal shares, and the first draws of unpaired donors."""
        batches, index, start = self.prepared.batches, [], 0
        share = -(-most // len(batches))
        for prompts in batches:
            index.append(np.arange(min(share, len(prompts.batch))) + start)
            start += len(prompts.batch)
        kept = np.concatenate(index)
        if len(kept) == len(self) and draws is None:
            return self
        smaller = tuple(shortened(prompts, len(part), draws) for prompts, part in zip(batches, index, strict=True))
        groups = tuple(self.groups[i] for i in kept)
        return Panel(replace(self.prepared, batches=smaller), self.metric[kept], self.right[kept], groups, self.bill)

    def score(self, circuit: Float[Tensor, " node"], setting: Setting, on_part: OnPart | None = None) -> Scores:
        """Score one circuit per prompt."""
        return self._read(self._run(circuit, setting, on_part), setting)

    def empty(self, setting: Setting) -> Scores:
        """Score the empty circuit: the chance level and the zero of faithfulness."""
        if setting not in self._empty:
            self._empty[setting] = self.score(torch.zeros(len(self.prepared.universe)), setting)
        return self._empty[setting]

    def headline(self, circuit: Float[Tensor, " node"]) -> list[Scores]:
        """Score one circuit under both settings of the headline."""
        return [self.score(circuit, setting) for setting in HEADLINE]

    def headline_of_many(
        self, circuits: Float[Tensor, "circuit node"], errors: ErrorSetting = "corrupted"
    ) -> list[float]:
        """Give the smaller preservation of the headline's settings for every circuit.

        The harder setting, unpaired donors, goes first: what preserves nothing there is not run under the other.
        """
        smallest = np.ones(len(circuits))
        for setting in reversed(HEADLINE):
            left = np.flatnonzero(smallest > 0)
            for alike in self._alike(circuits, left):
                outcome = self._run(circuits[torch.from_numpy(alike)], replace(setting, errors=errors))
                smallest[alike] = np.minimum(smallest[alike], as_array(outcome.agreement).mean(-1))
        return smallest.tolist()

    def _alike(
        self, circuits: Float[Tensor, "circuit node"], index: Int[np.ndarray, " kept"]
    ) -> list[Int[np.ndarray, " _"]]:
        """Group circuits of equal tokens and heads, which the engine then runs once up to the first MLP."""
        if len(index) < 2:
            return [index] if len(index) else []
        before = self.prepared.universe.kinds <= 1
        _, group = torch.unique(circuits[torch.from_numpy(index)][:, before], dim=0, return_inverse=True)
        return [index[group.numpy() == number] for number in range(int(group.max()) + 1)]

    def _run(
        self, circuits: Float[Tensor, "*circuit node"], setting: Setting, on_part: OnPart | None = None
    ) -> Outcome:
        n_circuits = circuits.shape[:-1].numel()
        for prompts in self.prepared.batches:
            donors = len(prompts.draws) if setting.ablation == "unpaired" else 1
            self.bill.spent += n_circuits * donors * len(prompts.batch)
        return evaluate(self.prepared, circuits, setting, on_part)

    @staticmethod
    def _read(outcome: Outcome, setting: Setting) -> Scores:
        return Scores(setting, as_array(outcome.agreement), as_array(outcome.metric), as_array(outcome.kl_nats))


def shortened(prompts: PreparedBatch, count: int, draws: int | None) -> PreparedBatch:
    """Keep the first prompts with their own donors, whose runs are appended behind the kept ones."""
    kept = prompts.draws[:draws]
    donors = [prompts.clean.take(draw[:count]) for draw in kept]
    index = torch.arange(count)
    return PreparedBatch(
        prompts.batch.take(index),
        concatenate([prompts.clean.take(index), *donors]),
        prompts.counterfactual.take(index),
        tuple((number + 1) * count + index for number in range(len(kept))),
        prompts.mean,
        prompts.zero,
    )


def as_array(values: Tensor) -> Float[np.ndarray, "..."]:
    """Give a tensor in double precision."""
    return values.detach().cpu().double().numpy()


def smaller(scores: Sequence[Scores]) -> Scores:
    """Give the scores of least preservation: the ones that the headline quotes."""
    return min(scores, key=lambda entry: entry.preserved)
