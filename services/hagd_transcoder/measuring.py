"""Measure dictionaries before a prompt is traced with them: one that reads another space gives a graph of nonsense.

A prompt alone has too few tokens to tell, so a short text follows it. Where the model has no tokenizer, the prompt is
all there is.
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
from hagd.models.loading import LoadedModel
from hagd.tasks.prompt import Prompt

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


def in_measured_space(found: Found, loaded: LoadedModel, prompt: Prompt) -> Found:
    """Give the same dictionaries with what they read decided by a measurement, where their file leaves it open.

    Raises:
        InvalidInputError: a layer explains less than the mean does, or another space fits clearly better.
    """
    tokens = _tokens(found, loaded, prompt)
    if tokens.shape[1] < _FEWEST_TOKENS:
        return found
    try:
        return dataclasses.replace(found, space=probe(found, loaded.model, tokens).space)
    except InvalidInputError as error:
        raise InvalidInputError(
            error.message, f"{error.hint}; --set prompt.measure=false takes them as they are"
        ) from error


def _tokens(found: Found, loaded: LoadedModel, prompt: Prompt) -> Int[Tensor, "batch pos"]:
    content, shape = found.content, loaded.model.config
    cells = 4 * shape.n_layers * shape.d_model
    if isinstance(content, CrossLayerTranscoder):
        cells += sum(it.shape[1] for it in content.w_enc)
    most = max(_FEWEST_TOKENS, min(_MOST_TOKENS, _MOST_CELLS // cells))
    if loaded.tokenizer is None:
        return torch.from_numpy(prompt.tokens)[None, : min(most, shape.n_positions)]
    rows = rows_of(f"{prompt.text} {TEXT}", loaded)[:, :most]
    return rows[: max(1, most // rows.shape[1])]
