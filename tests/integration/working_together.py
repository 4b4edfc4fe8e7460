"""What members of a group do in tests of how groups end. Members import this module."""

import os
import time
from collections.abc import Mapping

import torch

from hagd.artifacts.document import Document
from hagd.errors import NonFiniteError
from hagd.pipeline.contract import Config, StageContext
from hagd_transcoder.domain.group import Group

Documents = Mapping[str, Document]


def add(inputs: Documents, config: Config, context: StageContext, group: Group) -> None:
    """Add what came of every role, and how many threads there are."""
    total = sum(float(document.tensors["numbers"].sum()) for document in inputs.values())
    group.sum_([torch.tensor([total, config["more"], torch.get_num_threads()], dtype=torch.float64)])
    loaded = context.load_checkpoint()
    group.sum_([torch.tensor([0.0 if loaded is None else loaded[0] + float(loaded[1].tensors["state"].sum())])])


def fail(inputs: Documents, config: Config, context: StageContext, group: Group) -> None:
    """Raise an error of the stage, or one of nobody's, or end without a word."""
    if config["how"] == "stage":
        raise NonFiniteError("a member met NaN", "look at it")
    if config["how"] == "defect":
        raise ZeroDivisionError("by 0")
    os._exit(7)


def linger(inputs: Documents, config: Config, context: StageContext, group: Group) -> None:
    """Stay until somebody ends this process."""
    group.sum_([torch.tensor([float(os.getpid())])])
    time.sleep(300)
