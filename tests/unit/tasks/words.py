"""A tokenizer that knows given words whole, with and without a leading space, and splits all others into letters."""

import string
from collections.abc import Iterable

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from hagd.models.tokenizer import Tokenizer

BOS = "<s>"


def word_tokenizer(words: Iterable[str], *, bos: bool = False) -> Tokenizer:
    """Give a tokenizer; unknown words are split into single letters."""
    known = [BOS, *string.printable, *dict.fromkeys(form for word in words for form in (word, f" {word}"))]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(known))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|[^\w\s]"), "isolated")
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend, vocabulary[BOS], bos)


def words_of(*texts: str) -> list[str]:
    """Give the words of texts, without punctuation."""
    return [word.strip(",.{}") for text in texts for word in text.split()]
