"""Train a transcoder of eai-sparsify on recorded activations for a given processor time. Runs in its environment.

Reads `x` and `out` (and as held-out `x_held_out`) from a folder of `.npy` files, and writes what it predicts for the
held-out tokens, with the weights beside it. The model's run is not on its bill.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from size import tell  # pyright: ignore[reportMissingImports]
from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]


def main() -> None:
    """Answer with steps, tokens and processor seconds."""
    asked = _arguments()
    torch.set_num_threads(1)
    torch.manual_seed(asked.seed)
    x, out = (np.load(asked.folder / f"{name}.npy", mmap_mode="r") for name in ("x", "out"))
    config = SparseCoderConfig(
        num_latents=asked.features, k=asked.k, transcode=True, skip_connection=asked.skip, activation="topk"
    )
    coder = SparseCoder(x.shape[1], config)
    coder.b_dec.data = torch.from_numpy(np.asarray(out[:8192], dtype=np.float32).mean(0))
    optimiser = torch.optim.Adam(coder.parameters(), lr=asked.learning_rate)
    idle = torch.zeros(asked.features)
    begun, steps, order = time.process_time(), 0, np.random.default_rng(asked.seed)
    while time.process_time() - begun < asked.seconds and steps < asked.most_steps:
        rows = np.sort(order.choice(len(x), asked.batch, replace=False))
        read, written = (torch.from_numpy(np.asarray(side[rows], dtype=np.float32)) for side in (x, out))
        done = (time.process_time() - begun) / asked.seconds if asked.by_time else steps / asked.most_steps
        for group in optimiser.param_groups:
            group["lr"] = asked.learning_rate * min(1.0, (steps + 1) / 10, 2 * (1 - done) + 0.01)
        dead = idle > asked.dead_after
        given = coder(read, written, dead_mask=dead if dead.any() else None)
        (given.fvu + asked.auxiliary * given.auxk_loss).backward()
        # Its trainer normalises decoders of autoencoders alone.
        optimiser.step()
        optimiser.zero_grad()
        idle += asked.batch
        idle[given.latent_indices.flatten().unique()] = 0
        steps += 1
    seconds = time.process_time() - begun
    _write(asked.folder, coder, asked.skip)
    tell(steps=steps, tokens=steps * asked.batch, seconds=seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name, kind, default in (
        ("features", int, 1024),
        ("k", int, 16),
        ("seconds", float, 1e9),
        ("most-steps", int, 1 << 40),
        ("batch", int, 2048),
        ("learning-rate", float, 2e-3),
        ("auxiliary", float, 1 / 32),
        ("dead-after", int, 200_000),
        ("seed", int, 0),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--skip", action="store_true")
    asked = parser.parse_args()
    asked.by_time = asked.seconds < 1e9
    return asked


@torch.no_grad()
def _write(folder: Path, coder: Any, skip: bool) -> None:
    held_out = torch.from_numpy(np.asarray(np.load(folder / "x_held_out.npy"), dtype=np.float32))
    predicted = torch.cat([coder(part, part).sae_out for part in held_out.split(1024)])
    np.save(folder / "predicted.npy", predicted.numpy())
    weights = {
        "w_enc": coder.encoder.weight.T,
        "b_enc": coder.encoder.bias,
        "w_dec": coder.W_dec,
        "b_dec": coder.b_dec,
    }
    if skip:
        weights["w_skip"] = coder.W_skip.T
    np.savez(folder / "weights.npz", **{name: value.numpy() for name, value in weights.items()})


if __name__ == "__main__":
    main()
