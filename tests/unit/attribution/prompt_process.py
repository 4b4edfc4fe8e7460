"""Run a prompt in a process of its own, for tests that look at its memory. Answers one line of JSON."""

import dataclasses
import json
import sys

import torch

from hagd.attribution.frozen import freeze
from hagd.attribution.prompt_memory import prompt_bytes
from hagd.attribution.replacement import Replacement
from hagd.execution.running import peak_rss_bytes, reset_peak_rss
from hagd.pipeline.machine import resident_bytes
from unit.attribution.frozen_models import DICTIONARIES
from unit.hagd_coarsening.tiny import VOCAB, map_tensors, tiny_model

N_LAYERS = 3


def main(kind: str, n_pos: int) -> None:
    exact = tiny_model("llama", N_LAYERS)
    model, dictionaries = map_tensors((exact, DICTIONARIES[kind](exact)), torch.Tensor.float)
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, n_positions=n_pos))
    replacement = Replacement(dictionaries, model)
    tokens = torch.randint(VOCAB, (n_pos,), generator=torch.Generator().manual_seed(3))
    # What is loaded by the first prompt of a process is none of the next one's.
    freeze(model, replacement, tokens[:9])
    held = resident_bytes()
    reset_peak_rss()
    freeze(model, replacement, tokens)
    print(json.dumps({"told": prompt_bytes(model, replacement, n_pos), "taken": peak_rss_bytes() - held}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
