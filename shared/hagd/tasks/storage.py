"""A task as an artifact: token ids as tensors, names and layouts as JSON."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError
from hagd.tasks.task import SPLITS, Layout, PromptBatch, Split, Task

SCHEMA = "hagd.task/v1"
_TENSORS = ("clean", "counterfactual", "answers", "foils")


def task_to_document(task: Task) -> Document:
    """Serialise a task; equal tasks give equal bytes."""
    tensors: dict[str, np.ndarray] = {}
    batches: dict[str, list[dict[str, Any]]] = {}
    for split in SPLITS:
        batches[split] = []
        for number, batch in enumerate(task.batches.get(split, ())):
            layout = {"roles": list(batch.layout.roles), "answer_positions": list(batch.layout.answer_positions)}
            batches[split].append({"layout": layout, "groups": list(batch.groups)})
            for name in _TENSORS:
                value = cast(Tensor, getattr(batch, name))
                tensors[f"{split}.{number}.{name}"] = value.to(torch.int64).cpu().numpy()
    content = {
        "schema": SCHEMA,
        "name": task.name,
        "roles": list(task.roles),
        "batches": batches,
        "token_text": {str(token): text for token, text in task.token_text.items()},
        "judged": task.judged,
        "bos": task.bos,
        "minimum_accuracy": task.minimum_accuracy,
    }
    return Document(content, tensors)


def task_from_document(document: Document) -> Task:
    """Read what `task_to_document` wrote.

    Raises:
        CorruptArtifactError: the document is not a task of this version.
    """
    content = document.content
    if content.get("schema") != SCHEMA:
        raise CorruptArtifactError(
            f"expected a document of schema {SCHEMA!r}, got {content.get('schema')!r}", "run the subject stage again"
        )
    try:
        batches: dict[Split, tuple[PromptBatch, ...]] = {
            split: tuple(
                _read_batch(document, split, number, entry) for number, entry in enumerate(content["batches"][split])
            )
            for split in SPLITS
        }
        return Task(
            name=content["name"],
            roles=tuple(content["roles"]),
            batches=batches,
            token_text={int(token): text for token, text in content["token_text"].items()},
            judged=content["judged"],
            bos=content["bos"],
            minimum_accuracy=float(content["minimum_accuracy"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptArtifactError(f"the task document lacks a part: {error}", "run the subject stage again") from error


def _read_batch(document: Document, split: str, number: int, entry: dict[str, Any]) -> PromptBatch:
    clean, counterfactual, answers, foils = (
        torch.from_numpy(document.tensors[f"{split}.{number}.{name}"].copy()) for name in _TENSORS
    )
    layout = Layout(tuple(entry["layout"]["roles"]), tuple(entry["layout"]["answer_positions"]))
    groups = tuple(cast("list[str]", entry["groups"]))
    if not (
        clean.shape == counterfactual.shape == (len(groups), len(layout.roles))
        and answers.shape == foils.shape[:2] == (len(groups), len(layout.answer_positions))
    ):
        raise ValueError(f"the shapes of {split} batch {number} do not agree")
    return PromptBatch(layout, clean, counterfactual, answers, foils, groups)
