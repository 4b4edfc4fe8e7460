"""Do the work of the corpus stage: load the model, read documents in a drawn order, and turn them into its tokens."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from hagd.artifacts.document import Document
from hagd.corpora.corpus import SHORTEST_WINDOW, Corpus
from hagd.corpora.sources import digest_of_files, documents, files_of, shuffled
from hagd.corpora.storage import corpus_to_document
from hagd.errors import InvalidInputError
from hagd.models.loading import LoadedModel, load_model
from hagd.models.storage import model_to_document
from hagd.models.tokenizer import Tokenizer
from hagd.pipeline.contract import Config, StageContext
from hagd.tasks.registry import build_task
from hagd.tasks.splits import generator_for
from hagd_transcoder.corpus import CorpusConfig, read_corpus_config
from hagd_transcoder.domain.mixing import mixed
from hagd_transcoder.model_source import PretrainedSource


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> dict[str, Document]:
    """Give the documents `model` (with its provenance) and `corpus`.

    Raises:
        InvalidInputError: the text cannot be read, is not what was asked for, or is too little.
        UnknownNameError, UnavailableError, UnsupportedArchitectureError: as `load_model`.
    """
    del inputs
    checked, source = read_corpus_config(config)
    files = files_of(checked.data)
    digest = digest_of_files(files)
    if checked.digest not in (None, digest):
        raise InvalidInputError(
            f"the text has digest {digest[:12]}, asked for was {str(checked.digest)[:12]}",
            "give the text that the digest belongs to, or leave the digest out",
        )
    loaded = load_model(source.path, source.revision, source.gguf, tell=lambda message: context.progress(0, 1, message))
    tokenizer = _tokenizer_of(loaded, source, checked)
    texts = shuffled(documents(files, checked.field), checked.seed)
    text = _tokenised(texts, tokenizer, loaded.bos if source.bos is None else source.bos, checked, context)
    corpus = mixed(text, prompts_of(checked.mix, tokenizer, text.context), checked.mix, checked.seed)
    provenance = {"digest": digest, "files": len(files), "documents": corpus.n_documents, "model": loaded.digest}
    return {"model": _model_document(loaded), "corpus": corpus_to_document(corpus, provenance)}


def _tokenizer_of(loaded: LoadedModel, source: PretrainedSource, config: CorpusConfig) -> Tokenizer:
    if source.digest is not None and loaded.digest != source.digest:
        raise InvalidInputError(
            f"the model's weights have digest {loaded.digest[:12]}, asked for was {source.digest[:12]}",
            "give the model that the digest belongs to, or leave the digest out",
        )
    if loaded.tokenizer is None:
        raise InvalidInputError(f"the model {loaded.name} has no tokenizer", "add its tokenizer.json to the folder")
    if config.context > loaded.model.config.n_positions:
        raise InvalidInputError(
            f"corpus.context is {config.context}, but the model reads {loaded.model.config.n_positions} tokens",
            "choose a shorter context",
        )
    # Windows get their own first token; within documents there is none.
    return dataclasses.replace(loaded.tokenizer, bos=False)


def _tokenised(
    texts: Iterator[str], tokenizer: Tokenizer, bos: bool, config: CorpusConfig, context: StageContext
) -> Corpus:
    if bos and tokenizer.bos_id is None:
        raise InvalidInputError("the tokenizer has no beginning-of-sequence token", "leave bos out")
    pieces: list[torch.Tensor] = []
    total = 0
    for text in texts:
        ids = tokenizer.encode(text)[: config.most_tokens - total]
        if len(ids) < SHORTEST_WINDOW:
            continue
        pieces.append(torch.tensor(ids, dtype=torch.int32))
        total += len(ids)
        context.progress(total, config.most_tokens, f"reading text, {len(pieces)} documents")
        if total >= config.most_tokens:
            break
    if len(pieces) == 1 and total >= config.most_tokens:
        raise InvalidInputError(
            f"one document fills the {config.most_tokens} tokens of corpus.most_tokens; one is held out, "
            "so two are needed",
            "raise corpus.most_tokens, or cut the document",
        )
    if len(pieces) < 2:
        raise InvalidInputError(
            f"the text has {len(pieces)} documents of {SHORTEST_WINDOW} tokens or more; one is held out, "
            "so two are needed",
            "give more files, or lines of JSON with a document each",
        )
    lengths = torch.tensor([0, *map(len, pieces)])
    held_out = torch.zeros(len(pieces), dtype=torch.bool)
    count = min(len(pieces) - 1, max(1, round(config.held_out * len(pieces))))
    held_out[torch.randperm(len(pieces), generator=generator_for(config.seed, "held-out"))[:count]] = True
    names = tuple(map(tokenizer.text, range(tokenizer.vocab_size)))
    bos_id = tokenizer.bos_id if bos else None
    return Corpus(torch.cat(pieces), lengths.cumsum(0), held_out, config.context, bos_id, names)


def prompts_of(mix: Mapping[str, float], tokenizer: Tokenizer, context: int) -> dict[str, list[torch.Tensor]]:
    """Give the prompts of tasks that circuits are found on, clean and counterfactual, by the name of the task.

    Nothing is selected or verified on these, so dictionaries may learn them.

    Raises:
        InvalidInputError: the tokenizer does not suit the task, or a prompt is longer than a window.
    """
    found: dict[str, list[torch.Tensor]] = {}
    for name in sorted(mix):
        batches = build_task(name, {}, tokenizer).batches["discover"]
        found[name] = [row.int() for it in batches for side in (it.clean, it.counterfactual) for row in side]
        if (longest := max(map(len, found[name]))) >= context:
            raise InvalidInputError(
                f"prompts of {name} have {longest} tokens, windows {context}", "choose a longer corpus.context"
            )
    return found


def _model_document(loaded: LoadedModel) -> Document:
    document = model_to_document(loaded.model)
    provenance: dict[str, Any] = {
        "digest": loaded.digest,
        "quantisation": loaded.quantisation,
        "bos": loaded.bos,
        "source": {"kind": "pretrained", "name": loaded.name, "revision": loaded.revision},
    }
    return Document({**document.content, "provenance": provenance}, document.tensors)
