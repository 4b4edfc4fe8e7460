"""Trace one prompt, from artifacts to an artifact: decode, check that it fits into memory, attribute, encode."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from hagd.artifacts.document import Document
from hagd.attribution.build import LocalGraphConfig, PromptText, build_local_graph
from hagd.attribution.estimate import require_memory
from hagd.attribution.frozen import FrozenPrompt, freeze
from hagd.attribution.replacement import Replacement
from hagd.attribution.targets import LogitChoice, Targets, difference, likeliest, of_tokens
from hagd.dictionaries.storage import any_dictionaries_from_document
from hagd.errors import InvalidInputError
from hagd.graphs.local_storage import local_graph_to_document
from hagd.models.storage import model_from_document
from hagd.pipeline.contract import Config, StageContext
from hagd.pipeline.machine import available_bytes
from hagd.tasks.prompt import prompt_from_document
from hagd_coarsening.local_handlers import LocalGraphStageConfig, read_config


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Build the graph of one prompt. See `StageFunction`.

    Raises:
        InvalidInputError: the prompt does not fit the model, a target is no token, or the graph does not fit in memory.
        CorruptArtifactError: an input is not what its role says.
        NonFiniteError: the model or the attribution diverged.
    """
    checked = read_config(config)
    model, prompt = model_from_document(inputs["model"]), prompt_from_document(inputs["prompt"])
    tokens = torch.from_numpy(prompt.tokens)
    context.progress(0, 1, f"running {len(tokens)} tokens")
    replacement = Replacement(any_dictionaries_from_document(inputs["dictionaries"]), model)
    frozen = freeze(model, replacement, tokens, plain=min(checked.plain_positions, max(len(tokens) - 1, 0)))
    targets = _targets(frozen, checked, prompt.vocabulary)
    require_memory(frozen, len(targets), checked.nodes, available_bytes(), heads=checked.heads)
    graph = build_local_graph(
        frozen,
        PromptText(prompt.text, prompt.token_texts),
        targets,
        LocalGraphConfig(most_features=checked.nodes, half=checked.half, heads=checked.heads),
        context.progress,
    )
    graph = dataclasses.replace(
        graph, provenance={"model": prompt.model, "plain_positions": str(checked.plain_positions)}
    )
    return {"local_graph": local_graph_to_document(graph)}


def _targets(frozen: FrozenPrompt, config: LocalGraphStageConfig, names: Sequence[str]) -> Targets:
    if not config.targets:
        return likeliest(frozen, LogitChoice(config.logit_share, config.most_logits), names or None)
    tokens = [_token(text, names) for text in config.targets]
    if config.against is not None:
        return difference(frozen, tokens[0], _token(config.against, names), f"{config.targets[0]} - {config.against}")
    return of_tokens(frozen, tokens, names or None)


def _token(text: str, names: Sequence[str]) -> int:
    number = text.removeprefix("#")
    if number != text and number.isdecimal():
        return int(number)
    found = [number for number, name in enumerate(names) if name == text]
    if len(found) > 1:
        raise InvalidInputError(
            f"{text!r} is what {len(found)} tokens of this model are called", f"name one of them as #{found[0]}"
        )
    if not found:
        raise InvalidInputError(
            f"{text!r} is not one token of this model", "mind its leading space, or give its number as #123"
        )
    return found[0]
