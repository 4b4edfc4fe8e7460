"""Tiny random models, dictionaries and tasks in float64; sizes are distinct so that a swapped axis fails."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary, neurons_of
from hagd.interventions.activations import Subject
from hagd.models.language_model import Attention, Block, LanguageModel, Mlp, ModelConfig, Norm
from hagd.tasks.task import Layout, PromptBatch, Task

VOCAB = 23


class _Draw:
    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 0.4) -> Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64) * scale


def tiny_model(architecture: str, n_layers: int = 2, seed: int = 0) -> LanguageModel:
    """Give a random GPT-2 (LayerNorm, biases, GELU), a Llama (RMSNorm, rotary, grouped heads, SwiGLU), or a GPT-NeoX:
    like GPT-2, but half of each head rotary, and attention and MLP in parallel."""
    draw = _Draw(seed)
    llama, neox = architecture == "llama", architecture == "gpt_neox"
    rotary = llama or neox
    d_model, n_heads, d_head, d_mlp = 14, 6, 4, 11
    n_kv = 2 if llama else n_heads
    config = ModelConfig(
        architecture=architecture,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv,
        d_head=d_head,
        d_mlp=d_mlp,
        vocab_size=VOCAB,
        n_positions=9,
        activation="silu" if llama else "gelu_new",
        norm="rms" if llama else "layer",
        norm_eps=1e-5,
        rotary_base=10_000.0 if rotary else None,
        rotary_dims=2 if neox else None,
        parallel_residual=neox,
    )

    def norm() -> Norm:
        return Norm(config.norm, 1 + draw(d_model), None if llama else draw(d_model), config.norm_eps)

    def bias(*shape: int) -> Tensor | None:
        return None if llama else draw(*shape)

    def block() -> Block:
        attention = Attention(
            w_q=draw(n_heads, d_model, d_head),
            w_k=draw(n_kv, d_model, d_head),
            w_v=draw(n_kv, d_model, d_head),
            w_o=draw(n_heads, d_head, d_model),
            b_q=bias(n_heads, d_head),
            b_k=bias(n_kv, d_head),
            b_v=bias(n_kv, d_head),
            b_o=bias(d_model),
        )
        mlp = Mlp(
            config.activation,
            draw(d_model, d_mlp) if llama else None,
            draw(d_model, d_mlp),
            bias(d_mlp),
            draw(d_mlp, d_model),
            bias(d_model),
        )
        return Block(norm(), attention, norm(), mlp)

    return LanguageModel(
        config,
        draw(VOCAB, d_model, scale=1.0),
        None if rotary else draw(9, d_model),
        tuple(block() for _ in range(n_layers)),
        norm(),
        draw(d_model, VOCAB),
    )


def tiny_dictionary(model: LanguageModel, layer: int, *, gated: bool, skip: bool, n_features: int = 17) -> Dictionary:
    """Give a random TopK dictionary; it reconstructs nothing, so that errors are large."""
    draw = _Draw(100 + layer)
    d_model = model.config.d_model
    return Dictionary(
        kind="gated" if gated else "transcoder",
        layer=layer,
        activation="silu" if gated else "relu",
        k=5,
        w_gate=draw(d_model, n_features) if gated else None,
        b_gate=draw(n_features) if gated else None,
        w_enc=draw(d_model, n_features),
        b_enc=draw(n_features),
        w_dec=draw(n_features, d_model),
        b_dec=draw(d_model),
        w_skip=draw(d_model, d_model) if skip else None,
    )


def tiny_subject(architecture: str) -> Subject:
    """Give a two-layer subject: layer 0 gated with a skip path, layer 1 plain."""
    model = tiny_model(architecture)
    return Subject(
        model,
        {
            0: tiny_dictionary(model, 0, gated=True, skip=True),
            1: tiny_dictionary(model, 1, gated=False, skip=False, n_features=13),
        },
    )


def in_single_precision(subject: Subject) -> Subject:
    """Give the subject in float32, as artifacts hold it."""
    return map_tensors(subject, torch.Tensor.float)


def map_tensors(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Give a tree of dataclasses, tuples and dicts with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple):
        return tuple(map_tensors(part, change) for part in tree)
    if isinstance(tree, dict):
        return {name: map_tensors(part, change) for name, part in tree.items()}
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{part.name: map_tensors(getattr(tree, part.name), change) for part in fields(tree)})
    return tree


def neuron_subject(architecture: str) -> Subject:
    """Give a two-layer subject whose dictionaries are the MLPs' own neurons."""
    model = tiny_model(architecture)
    return Subject(model, {layer: neurons_of(block.mlp, layer) for layer, block in enumerate(model.blocks)})


def tiny_batch(roles: tuple[str, ...], answer_positions: tuple[int, ...], n_prompts: int, seed: int) -> PromptBatch:
    """Give random prompts with distinct groups and varied answers."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(*shape: int) -> Tensor:
        return torch.randint(0, VOCAB - 5, shape, generator=generator)

    answers = torch.arange(n_prompts)[:, None].expand(-1, len(answer_positions)) % (VOCAB - 5)
    return PromptBatch(
        Layout(roles, answer_positions),
        tokens(n_prompts, len(roles)),
        tokens(n_prompts, len(roles)),
        answers,
        torch.stack([answers + 1, answers + 3], -1),
        tuple(f"group-{i}" for i in range(n_prompts)),
    )


def tiny_task(n_prompts: int = 19) -> Task:
    """Give a task of two layouts that share two roles, one with two answer positions."""
    first = tiny_batch(("a", "b", "eq"), (2,), n_prompts, seed=1)
    second = tiny_batch(("b", "c", "a", "eq"), (2, 3), n_prompts, seed=2)
    return Task("tiny", ("a", "b", "c", "eq"), {"discover": (first, second)}, {}, "vocabulary", False, 0.0)


def with_discover(task: Task, *batches: PromptBatch) -> Task:
    """Give the task with other discovery prompts, all of the same roles."""
    return replace(task, roles=batches[0].layout.roles, batches={"discover": batches})
