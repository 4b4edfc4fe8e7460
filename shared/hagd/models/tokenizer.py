"""A tokenizer as a plain object: text to ids and back, and the rule for the beginning-of-sequence token.

It wraps the fast `tokenizers` object alone, so that reading it from one JSON file needs no `transformers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers

from hagd.errors import InvalidInputError


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back, without special tokens unless `bos` asks for one."""

    backend: tokenizers.Tokenizer
    bos_id: int | None
    bos: bool
    """Whether prompts of this model start with `bos_id`."""

    def encode(self, text: str) -> list[int]:
        """Give the ids of `text`, after the beginning-of-sequence token if the rule asks for it."""
        ids = list(self.backend.encode(text, add_special_tokens=False).ids)
        return [self.bos_id, *ids] if self.bos and self.bos_id is not None else ids

    def encode_continuation(self, text: str) -> list[int]:
        """Give the ids of text that continues a prompt: never with a beginning-of-sequence token."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def single_token(self, text: str, what: str = "answer") -> int:
        """Give the id of an answer (or of `what` it is) that must be one token.

        Raises:
            InvalidInputError: `text` is not exactly one token.
        """
        ids = self.encode_continuation(text)
        if len(ids) != 1:
            pieces = ", ".join(repr(self.text(token)) for token in ids)
            raise InvalidInputError(
                f"the {what} {text!r} is {len(ids)} tokens ({pieces}), expected one",
                "choose another that is one token, and mind its leading space",
            )
        return ids[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Give the text of several tokens."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def text(self, token: int) -> str:
        """Give the text of one token, leading space included."""
        return self.decode([token])

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    def to_json(self) -> str:
        """Give the content of a `tokenizer.json`; `bos_id` and `bos` are not part of it."""
        return self.backend.to_str()

    @staticmethod
    def from_json(text: str, *, bos_id: int | None, bos: bool) -> "Tokenizer":
        """Read the content of a `tokenizer.json`.

        Raises:
            InvalidInputError: it is not one.
        """
        try:
            return Tokenizer(tokenizers.Tokenizer.from_str(text), bos_id, bos)
        except Exception as error:  # the library raises nothing more specific
            raise InvalidInputError(f"not a tokenizer file: {error}", "save the tokenizer again") from error
