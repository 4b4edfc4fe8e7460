"""Do the work of the prompt stage: load model and dictionaries, fold these into the model's spaces, and tokenise."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from hagd.artifacts.document import Document
from hagd.dictionaries.dictionary import neurons_of
from hagd.dictionaries.formats.spaces import fold
from hagd.dictionaries.names import NEURONS
from hagd.dictionaries.storage import any_dictionaries_to_document, dictionaries_to_document
from hagd.errors import InvalidInputError
from hagd.models.loading import LoadedModel, load_model
from hagd.models.storage import model_to_document
from hagd.pipeline.contract import Config, StageContext
from hagd.tasks.prompt import Prompt, prompt_to_document
from hagd_transcoder.dictionary_reading import read_found
from hagd_transcoder.measuring import in_measured_space, tokens_around
from hagd_transcoder.model_source import PretrainedSource
from hagd_transcoder.prompt import PromptConfig, read_prompt_config


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> dict[str, Document]:
    """Give the documents `model`, `dictionaries` (by layer, or across layers) and `prompt`.

    Raises:
        InvalidInputError: the dictionaries are not of this model or do not explain it, a token is none of its, or it
            has no tokenizer for the text.
        UnknownNameError, UnavailableError, UnsupportedArchitectureError: as `load_model`.
    """
    del inputs
    checked, source = read_prompt_config(config)
    loaded = load_model(source.path, source.revision, source.gguf, tell=lambda message: context.progress(0, 1, message))
    if source.digest is not None and loaded.digest != source.digest:
        raise InvalidInputError(
            f"the model's weights have digest {loaded.digest[:12]}, asked for was {source.digest[:12]}",
            "give the model that the digest belongs to, or leave the digest out",
        )
    prompt = _tokenised(checked, source, loaded)
    context.progress(1, 2, "reading dictionaries")
    return {
        "model": model_to_document(loaded.model),
        "dictionaries": _dictionaries(checked, loaded, prompt),
        "prompt": prompt_to_document(prompt),
    }


def _tokenised(config: PromptConfig, source: PretrainedSource, loaded: LoadedModel) -> Prompt:
    tokenizer = loaded.tokenizer
    if config.tokens is not None:
        tokens = list(config.tokens)
    elif tokenizer is None:
        raise InvalidInputError(f"the model {loaded.name} has no tokenizer", "give tokens, or add its tokenizer.json")
    else:
        bos = loaded.bos if source.bos is None else source.bos
        if bos and tokenizer.bos_id is None:
            raise InvalidInputError("the tokenizer has no beginning-of-sequence token", "leave bos out")
        tokens = dataclasses.replace(tokenizer, bos=bos).encode(config.text or "")
    vocabulary = range(loaded.model.config.vocab_size)
    if wrong := [token for token in tokens if token not in vocabulary]:
        raise InvalidInputError(f"there is no token {wrong[0]}", f"tokens of this model go from 0 to {vocabulary[-1]}")
    texts = [] if tokenizer is None else [tokenizer.text(token) for token in tokens]
    names = [] if tokenizer is None else [tokenizer.text(token) for token in vocabulary]
    return Prompt(
        config.text or "", np.array(tokens, dtype=np.int64), tuple(texts), tuple(names), loaded.digest, loaded.name
    )


def _dictionaries(config: PromptConfig, loaded: LoadedModel, prompt: Prompt) -> Document:
    if config.dictionaries == NEURONS:
        found = {layer: neurons_of(block.mlp, layer) for layer, block in enumerate(loaded.model.blocks)}
        return dictionaries_to_document(found, {})
    found = read_found(config.dictionaries, config.dictionaries_digest, loaded, any_name=config.any_name)
    if config.measure:
        found = in_measured_space(found, loaded.model, tokens_around(found, loaded, prompt), "prompt")
    return any_dictionaries_to_document(fold(found, loaded.model).content, {})
