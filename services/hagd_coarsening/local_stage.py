"""Trace one prompt, from artifacts to an artifact: decode, see where its rows fit, attribute, encode.

Model, dictionaries and prompt lie where the context says that the task computes; the graph lies on the CPU.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from hagd.artifacts.document import Document
from hagd.artifacts.filesystem import storage_error
from hagd.attribution.build import LocalGraphConfig, PromptText, build_local_graph
from hagd.attribution.estimate import GraphPlan, Room, plan_graph
from hagd.attribution.frozen import FrozenPrompt, freeze
from hagd.attribution.prompt_memory import require_room
from hagd.attribution.replacement import Replacement
from hagd.attribution.targets import LogitChoice, Targets, difference, likeliest, of_tokens, of_vector, together
from hagd.dictionaries.storage import any_dictionaries_from_document
from hagd.errors import InvalidInputError
from hagd.graphs.local_storage import local_graph_to_document
from hagd.models.storage import model_from_document
from hagd.pipeline.contract import Config, StageContext
from hagd.pipeline.machine import available_bytes, free_disk_bytes
from hagd.tasks.prompt import Prompt, prompt_from_document
from hagd_coarsening.local_handlers import LocalGraphStageConfig, read_config


@dataclass(frozen=True)
class PromptAtHand:
    """A prompt that was run, and where the rows of its graph go."""

    prompt: Prompt
    frozen: FrozenPrompt
    targets: Targets
    config: LocalGraphConfig
    room: Room
    plan: GraphPlan


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Build the graph of one prompt. See `StageFunction`.

    Raises:
        InvalidInputError: the prompt does not fit model or memory, a target is no token, or the graph fits nowhere.
        CorruptArtifactError: an input is not what its role says.
        NonFiniteError: the model or the attribution diverged.
        StoreFullError, UnavailableError: the rows cannot be written to the disk of the run.
    """
    checked = read_config(config)
    at_hand, folder = prepare(inputs, checked, context), context.scratch_folder()
    prompt = at_hand.prompt
    try:
        graph = build_local_graph(
            at_hand.frozen,
            PromptText(prompt.text, prompt.token_texts),
            at_hand.targets,
            at_hand.config,
            context.progress,
            folder if at_hand.plan.in_file else None,
        )
    except OSError as error:
        raise storage_error(error, folder) from error
    graph = dataclasses.replace(
        graph, provenance={"model": prompt.model, "plain_positions": str(checked.plain_positions)}
    )
    return {"local_graph": local_graph_to_document(graph)}


def prepare(inputs: Mapping[str, Document], config: LocalGraphStageConfig, context: StageContext) -> PromptAtHand:
    """Run the prompt, and see where the rows of its graph fit; errors as of `run`."""
    device = context.device()
    model, prompt = model_from_document(inputs["model"], device), prompt_from_document(inputs["prompt"])
    tokens = torch.from_numpy(prompt.tokens).to(device)
    context.progress(0, 1, f"running {len(tokens)} tokens")
    replacement = Replacement(any_dictionaries_from_document(inputs["dictionaries"], device), model)
    room = Room(available_bytes(device), free_disk_bytes(context.scratch_folder()))
    require_room(model, replacement, len(tokens), room.usable.memory_bytes)
    frozen = freeze(model, replacement, tokens, plain=min(config.plain_positions, max(len(tokens) - 1, 0)))
    targets = _targets(frozen, config, prompt.vocabulary)
    room = Room(available_bytes(device), room.disk_bytes)
    plan = plan_graph(
        frozen, len(targets), config.nodes, room, heads=config.heads, half=config.half, spill=config.spill
    )
    graph = LocalGraphConfig(most_features=config.nodes, half=config.half, heads=config.heads)
    return PromptAtHand(prompt, frozen, targets, graph, room, plan)


def _targets(frozen: FrozenPrompt, config: LocalGraphStageConfig, names: Sequence[str]) -> Targets:
    vectors = [of_vector(frozen, torch.tensor(it), name) for name, it in config.vectors.items()]
    if config.targets:
        return together([_named_targets(frozen, config, names), *vectors])
    if vectors:
        return together(vectors)
    return likeliest(frozen, LogitChoice(config.logit_share, config.most_logits), names or None)


def _named_targets(frozen: FrozenPrompt, config: LocalGraphStageConfig, names: Sequence[str]) -> Targets:
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
