"""One tokenised prompt of a model, and its artifact: what a trace reads."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError

FORMAT = "hagd.prompt/1"


@dataclass(frozen=True)
class Prompt:
    """What a model reads, and how its tokens are called."""

    text: str
    """Empty where only tokens were given."""
    tokens: Int[np.ndarray, " pos"]
    token_texts: tuple[str, ...]
    """By position; none where the model has no tokenizer."""
    vocabulary: tuple[str, ...]
    """By token; none where the model has no tokenizer."""
    model: str
    """Digest of the model."""
    model_name: str


def prompt_to_document(prompt: Prompt) -> Document:
    """Give the artifact of a prompt."""
    content = {
        "format": FORMAT,
        "text": prompt.text,
        "token_texts": list(prompt.token_texts),
        "vocabulary": list(prompt.vocabulary),
        "model": prompt.model,
        "model_name": prompt.model_name,
    }
    return Document(content, {"tokens": prompt.tokens.astype(np.int32)})


def prompt_from_document(document: Document) -> Prompt:
    """Read what `prompt_to_document` wrote.

    Raises:
        CorruptArtifactError: it is no prompt, of another version, or lacks a part.
    """
    content = document.content
    if content.get("format") != FORMAT:
        raise CorruptArtifactError(
            f"expected a document of format {FORMAT!r}, got {content.get('format')!r}", "run the prompt stage again"
        )
    try:
        return Prompt(
            text=str(content["text"]),
            tokens=document.tensors["tokens"].astype(np.int64),
            token_texts=tuple(content["token_texts"]),
            vocabulary=tuple(content["vocabulary"]),
            model=str(content["model"]),
            model_name=str(content["model_name"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(f"the prompt lacks a part: {error}", "run the prompt stage again") from error
