"""Time the step of eai-sparsify: forward, backward and Adam, as its trainer takes them. Runs in its environment."""

import time

import torch
from size import Size, tell  # pyright: ignore[reportMissingImports]
from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]


def main() -> None:
    """Answer with the processor seconds of a step."""
    size = Size.from_argument()
    torch.set_num_threads(1)
    torch.manual_seed(size.seed)
    config = SparseCoderConfig(num_latents=size.features, k=size.k, transcode=True)
    coder = SparseCoder(size.width, config)
    optimiser = torch.optim.Adam(coder.parameters(), lr=2e-4)
    x, out = torch.randn(size.tokens, size.width), torch.randn(size.tokens, size.width)

    def step() -> None:
        coder(x, out).fvu.backward()
        optimiser.step()
        optimiser.zero_grad()

    step()
    begun = time.process_time()
    for _ in range(size.steps):
        step()
    tell(seconds=(time.process_time() - begun) / size.steps)


if __name__ == "__main__":
    main()
