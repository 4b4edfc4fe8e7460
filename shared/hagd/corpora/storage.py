"""A corpus as an artifact."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch

from hagd.artifacts.document import Document
from hagd.corpora.corpus import Corpus
from hagd.errors import CorruptArtifactError

SCHEMA: Final = "hagd.corpus/v1"


def corpus_to_document(corpus: Corpus, provenance: Mapping[str, Any]) -> Document:
    """Serialise a corpus, with where it comes from (JSON content)."""
    content: dict[str, Any] = {"schema": SCHEMA, "context": corpus.context, "bos_id": corpus.bos_id}
    content |= {"vocabulary": list(corpus.vocabulary), "provenance": dict(provenance)}
    # Left out where there are none: text alone keeps its bytes.
    content |= {"n_prompts": corpus.n_prompts} if corpus.n_prompts else {}
    return Document(
        content,
        {
            "tokens": corpus.tokens.numpy().astype(np.int32),
            "offsets": corpus.offsets.numpy().astype(np.int64),
            "held_out": corpus.held_out.numpy().astype(np.uint8),
        },
    )


def corpus_from_document(document: Document, device: str = "cpu") -> Corpus:
    """Read what `corpus_to_document` wrote, to be read by a model on some device.

    Raises:
        CorruptArtifactError: it is of another kind, or its parts do not belong together.
    """
    content, tensors = document.content, document.tensors
    if content.get("schema") != SCHEMA:
        raise CorruptArtifactError(
            f"expected a document of schema {SCHEMA!r}, got {content.get('schema')!r}", "prepare the corpus again"
        )
    try:
        found = Corpus(
            torch.from_numpy(tensors["tokens"].copy()),
            torch.from_numpy(tensors["offsets"].copy()),
            torch.from_numpy(tensors["held_out"].copy()).bool(),
            int(content["context"]),
            None if content["bos_id"] is None else int(content["bos_id"]),
            tuple(map(str, content["vocabulary"])),
            int(content.get("n_prompts", 0)),
            device,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifactError(f"the corpus lacks a part: {error}", "prepare the corpus again") from error
    steps = found.offsets.diff()
    fits = len(steps) == found.n_documents >= found.n_prompts >= 0 and bool((steps >= 0).all())
    if not fits or int(found.offsets[0]) != 0 or int(found.offsets[-1]) != len(found.tokens):
        raise CorruptArtifactError("the documents of the corpus do not fill its tokens", "prepare the corpus again")
    return found
