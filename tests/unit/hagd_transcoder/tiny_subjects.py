"""Tiny random models and prompts to train dictionaries on, in float32; sizes are distinct so that a swapped axis
fails."""

from typing import Literal

import torch
from torch import Tensor

from hagd.models.language_model import Attention, Block, LanguageModel, Mlp, ModelConfig, Norm
from hagd.tasks.task import Layout, PromptBatch, Task

VOCAB, N_POS, D_MODEL, D_MLP = 23, 5, 14, 11
AT = (2, 4)


class _Draw:
    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator) * 0.5


def tiny_model(n_layers: int = 1, activation: str = "relu", seed: int = 0) -> LanguageModel:
    """Give a random GPT-2-like model, or a Llama-like one for `silu`."""
    draw, gated = _Draw(seed), activation == "silu"
    n_heads, d_head = 3, 4
    norm_kind: Literal["layer", "rms"] = "rms" if gated else "layer"
    config = ModelConfig(
        architecture="llama" if gated else "gpt2",
        n_layers=n_layers,
        d_model=D_MODEL,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_head=d_head,
        d_mlp=D_MLP,
        vocab_size=VOCAB,
        n_positions=9,
        activation=activation,
        norm=norm_kind,
        norm_eps=1e-5,
        rotary_base=10_000.0 if gated else None,
    )

    def norm() -> Norm:
        return Norm(norm_kind, 1 + draw(D_MODEL), None if gated else draw(D_MODEL), 1e-5)

    def block() -> Block:
        attention = Attention(
            *(draw(n_heads, D_MODEL, d_head) for _ in range(3)),
            draw(n_heads, d_head, D_MODEL),
            *(draw(n_heads, d_head) for _ in range(3)),
            draw(D_MODEL),
        )
        gate = draw(D_MODEL, D_MLP) if gated else None
        mlp = Mlp(activation, gate, draw(D_MODEL, D_MLP), draw(D_MLP), draw(D_MLP, D_MODEL), draw(D_MODEL))
        return Block(norm(), attention, norm(), mlp)

    positions = None if gated else draw(9, D_MODEL)
    blocks = tuple(block() for _ in range(n_layers))
    return LanguageModel(config, draw(VOCAB, D_MODEL), positions, blocks, norm(), draw(D_MODEL, VOCAB))


def tiny_batch(n_prompts: int, seed: int = 1) -> PromptBatch:
    """Give random prompts judged at two positions."""
    generator = torch.Generator().manual_seed(seed)

    def ids(*shape: int) -> Tensor:
        return torch.randint(VOCAB, shape, generator=generator)

    roles = tuple(f"r{i}" for i in range(N_POS))
    groups = tuple(f"g{i}" for i in range(n_prompts))
    clean, other = ids(n_prompts, N_POS), ids(n_prompts, N_POS)
    return PromptBatch(Layout(roles, AT), clean, other, ids(n_prompts, 2), ids(n_prompts, 2, 3), groups)


def tiny_task(n_prompts: int = 67) -> Task:
    """Give a task of random prompts; nothing to learn about, but everything runs."""
    discover, select = tiny_batch(n_prompts), tiny_batch(31, seed=2)
    return Task(
        name="tiny",
        roles=discover.layout.roles,
        batches={"discover": (discover,), "select": (select,), "verify": (), "ood": ()},
        token_text={i: str(i) for i in range(VOCAB)},
        judged="vocabulary",
        bos=False,
        minimum_accuracy=0.0,
    )
