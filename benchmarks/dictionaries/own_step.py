"""Time our step: the same shapes and data as `rival_step`, in 32 bits or with the encoder's product in 16."""

import sys
import time

import torch

from benchmarks.dictionaries.size import Size, tell
from hagd.dictionaries.dictionary import Dictionary
from hagd_transcoder.domain.sparse.step import Encoder
from hagd_transcoder.domain.sparse.trainer import SparseTrainer


def main() -> None:
    """Answer with the processor seconds of a step."""
    size = Size.from_argument()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(size.seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    w_enc, w_dec = draw(size.width, size.features) / size.width**0.5, draw(size.features, size.width) / size.width**0.5
    zeros = torch.zeros
    biases = zeros(size.features), zeros(size.width)
    start = Dictionary("transcoder", 0, "relu", size.k, None, None, w_enc, biases[0], w_dec, biases[1], None)
    trainer = SparseTrainer.start(start, float(size.width), Encoder("relu", size.k, half="half" in sys.argv))
    x, out = draw(size.tokens, size.width), draw(size.tokens, size.width)
    trainer.step(x, out, 2e-4)
    begun = time.process_time()
    for _ in range(size.steps):
        trainer.step(x, out, 2e-4)
    tell(seconds=(time.process_time() - begun) / size.steps)


if __name__ == "__main__":
    main()
