"""The artifact of a prompt reads back as it was, and nothing else is taken for one."""

import dataclasses

import numpy as np
import pytest

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError
from hagd.tasks.prompt import Prompt, prompt_from_document, prompt_to_document

PROMPT = Prompt("a b", np.array([5, 2, 3]), ("<s>", "a", " b"), ("x", "y", "a", " b"), "c0ffee", "tiny")


def test_a_prompt_reads_back_as_it_was() -> None:
    read = prompt_from_document(Document.decode(prompt_to_document(PROMPT).encode()))
    assert read.tokens.tolist() == PROMPT.tokens.tolist()
    assert dataclasses.replace(read, tokens=PROMPT.tokens) == PROMPT


def test_a_document_of_another_format_is_no_prompt() -> None:
    written = prompt_to_document(PROMPT)
    with pytest.raises(CorruptArtifactError, match=r"hagd\.prompt/1"):
        prompt_from_document(Document({**written.content, "format": "hagd.graph/1"}, written.tensors))


@pytest.mark.parametrize("part", ["text", "token_texts", "vocabulary", "model", "model_name"])
def test_a_prompt_without_a_part_is_refused(part: str) -> None:
    written = prompt_to_document(PROMPT)
    content = {name: value for name, value in written.content.items() if name != part}
    with pytest.raises(CorruptArtifactError, match=part):
        prompt_from_document(Document(content, written.tensors))


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(CorruptArtifactError, match="tokens"):
        prompt_from_document(Document(prompt_to_document(PROMPT).content))
