"""Measure dictionaries before anything is traced with them: one that reads another space gives a graph of nonsense.

One prompt alone has too few tokens to tell, so a short text follows it. Where the model has no tokenizer, the prompt is
all there is; the prompts of a task are enough.
"""

import dataclasses
from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor

from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.formats.conversion import rows_of
from hagd.dictionaries.formats.found import Found
from hagd.dictionaries.formats.probing import probe
from hagd.errors import InvalidInputError
from hagd.models.language_model import LanguageModel
from hagd.models.loading import LoadedModel
from hagd.tasks.prompt import Prompt
from hagd.tasks.task import Task

_MOST_TOKENS: Final = 512
_MOST_CELLS: Final = 1 << 27
"""What may be held of both sides of all MLPs, and of the features of dictionaries across layers."""
_FEWEST_TOKENS: Final = 3
"""With the first one left out, two are needed."""
TEXT: Final = """The river rises in the hills north of the town and runs for some forty miles before it meets the
sea. In 1874 a bridge was built across it, and the two villages, which had been a day apart by road,
became one market. "You could hear the trains from our kitchen," she said, "and my father set his
watch by them." Most of the mills closed after the war; the largest is now a museum, open from April
to October, where visitors can see how wool was washed, spun and dyed. Tickets cost 6.50 for adults
and 3.00 for children.

Water boils at a lower temperature on a mountain because the pressure of the air is lower there. If n is even, then
its square is even too, since it has a factor of two. To install the program, download the file, open a terminal and
type the command below. What would happen if the price of bread doubled next week? Economists do not agree, but they
have studied similar cases in France, Egypt and the United States. He opened the letter, read it twice, and put it
back into the drawer without a word; then he went out to look for his dog.
"""
"""Prose of several kinds, so that many features of a dictionary of English text are active."""


def in_measured_space(found: Found, model: LanguageModel, tokens: Int[Tensor, "batch pos"], place: str) -> Found:
    """Give the same dictionaries with what they read decided by a measurement, where their file leaves it open.

    Args:
        found: the dictionaries.
        model: the one they belong to.
        tokens: what it reads meanwhile; where these are too few, nothing is measured.
        place: the stage whose `measure` leaves that out, for the message.

    Raises:
        InvalidInputError: a layer explains less than the mean does, or another space fits clearly better.
    """
    if tokens.shape[1] < 2 or tokens.numel() - len(tokens) < 2:
        return found
    try:
        return dataclasses.replace(found, space=probe(found, model, tokens).space)
    except InvalidInputError as error:
        raise InvalidInputError(
            error.message, f"{error.hint}; --set {place}.measure=false takes them as they are"
        ) from error


def tokens_around(found: Found, loaded: LoadedModel, prompt: Prompt) -> Int[Tensor, "batch pos"]:
    """Give the tokens of a prompt and of a text behind it, as many as may be measured on."""
    most = _most_tokens(found, loaded.model)
    if loaded.tokenizer is None:
        return torch.from_numpy(prompt.tokens)[None, : min(most, loaded.model.config.n_positions)]
    rows = rows_of(f"{prompt.text} {TEXT}", loaded)[:, :most]
    return rows[: max(1, most // rows.shape[1])]


def tokens_of_task(found: Found, model: LanguageModel, task: Task) -> Int[Tensor, "batch pos"]:
    """Give the prompts of one length that a task discovers on, as many as may be measured on.

    Raises:
        InvalidInputError: the task has none.
    """
    if not task.size("discover"):
        raise InvalidInputError("the task has no prompts in D_discover", "give more prompts")
    rows = max(task.batches["discover"], key=len).clean
    return rows[: max(1, _most_tokens(found, model) // rows.shape[1])]


def _most_tokens(found: Found, model: LanguageModel) -> int:
    """Give how many tokens dictionaries may be measured on."""
    cells = 4 * model.config.n_layers * model.config.d_model
    if isinstance(found.content, CrossLayerTranscoder):
        cells += sum(it.shape[1] for it in found.content.w_enc)
    return max(_FEWEST_TOKENS, min(_MOST_TOKENS, _MOST_CELLS // cells))
