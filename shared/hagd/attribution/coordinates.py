"""Coordinates in which read vectors are kept on their way down.

What heads carry lies in the span of the values they read, which is narrow where query heads share keys and values. So
it is first kept as coordinates in that span, one more span per layer passed, and becomes a vector of the stream only
when the coordinates would be longer than that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.attribution.blocks import Block
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.standing import Standing
from hagd.models.precision import multiply

_LONGEST_COORDINATES: Final = 1.5
"""Coordinates are kept until they are this many times longer than a vector of the stream, which costs a product to
become."""
_MOST_COORDINATE_CELLS: Final = 1 << 27
"""What may be held of everything written, in the coordinates of the layers above it."""


def coordinate_layers(frozen: FrozenPrompt, n_written: int) -> int:
    """Give how many layers' value spans make coordinates; 0 where vectors of the stream are better from the start.

    Args:
        frozen: the prompt.
        n_written: decoders and errors of all layers, each counted wherever it writes.
    """
    shape = frozen.model.config
    kv_width = shape.n_kv_heads * shape.d_head
    if kv_width >= shape.d_model or any(frozen.replacement.skip(it) is not None for it in range(shape.n_layers)):
        return 0
    layers = int(_LONGEST_COORDINATES * shape.d_model) // kv_width
    while layers and n_written * kv_width * layers > _MOST_COORDINATE_CELLS:
        layers -= 1
    return layers


@dataclass
class State:
    """What the rows of a descent read at one depth: at each position, `coordinates` in the value spans of `layers`
    (of the stream itself where there are none), and at the position of each row, besides, `points`."""

    coordinates: Float[Tensor, "pos row capacity"]
    layers: tuple[int, ...]
    points: Float[Tensor, "row d_model"] | None


@dataclass(frozen=True)
class View:
    """What is written to a block, and what its heads read, in some coordinates."""

    heads: Float[Tensor, "coordinate width"]
    writers: dict[int, Float[Tensor, "_ coordinate"]]
    """By source layer, packed by position."""


class Coordinates:
    """The coordinates of one prompt: how states begin and grow, and what blocks look like in them."""

    def __init__(self, blocks: Sequence[Block], most_layers: int, *, products: torch.dtype, sums: torch.dtype) -> None:
        """Keep what is asked for more than once.

        Args:
            blocks: those of the prompt.
            most_layers: how many value spans make coordinates, as `coordinate_layers` says.
            products: dtype of what products take.
            sums: dtype of vectors of the stream.
        """
        self._blocks, self._most_layers = blocks, most_layers
        self._products, self._sums = products, sums
        self._kv_width = len(blocks[0].w_v)
        self._streams: dict[int, View] = {}
        self._views: dict[int, View] = {}
        self._between: dict[int, Tensor] = {}
        self._room = blocks[0].w_v.new_empty(0)

    def spans(self, layers: tuple[int, ...]) -> Float[Tensor, "coordinate d_model"]:
        """Give the vectors of the stream that are the coordinates of some layers."""
        return torch.cat([self._blocks[layer].w_v for layer in layers])

    def length(self, layers: tuple[int, ...]) -> int:
        """Give how many coordinates the value spans of some layers make."""
        return len(layers) * self._kv_width

    def spans_above(self, number: int) -> Float[Tensor, "coordinate d_model"]:
        """Give the coordinates of all states that come down to a block in value spans.

        Those of a state from fewer layers above it are the last of them, since states take in one layer after another.
        """
        return self.spans(tuple(reversed(range(number + 1, min(number + 1 + self._most_layers, len(self._blocks))))))

    def view(self, layers: tuple[int, ...], number: int) -> View:
        """Give a block in the coordinates of a state that has come down to it through the value spans of `layers`."""
        if not layers:
            if number not in self._streams:
                block = self._blocks[number]
                packed = {source: block.slots[source].pack(written) for source, written in block.writers.items()}
                self._streams[number] = View(block.w_o, packed)
            return self._streams[number]
        if number not in self._views:
            block, spans = self._blocks[number], self.spans_above(number)
            packed = {
                source: block.slots[source].pack(multiply(written, spans.T))
                for source, written in block.writers.items()
            }
            self._views[number] = View(multiply(spans, block.w_o), packed)
        whole, length = self._views[number], self.length(layers)
        return View(whole.heads[-length:], {source: it[:, -length:] for source, it in whole.writers.items()})

    def between(self, number: int) -> Float[Tensor, "kv_width width"]:
        """Give what the heads of a block read of the values of the next one's."""
        if number not in self._between:
            self._between[number] = self._blocks[number + 1].w_v @ self._blocks[number].w_o
        return self._between[number]

    def begin(self, rows: Standing, layer: int) -> State:
        """Give the state of rows that will read the values of a layer, whose place is the first of its coordinates.

        There is one state at a time: it lies where the one before lay.
        """
        shape = rows.n_pos, len(rows.positions), max(1, min(self._most_layers, layer + 1)) * self._kv_width
        if self._room.numel() < math.prod(shape):
            self._room = self._blocks[0].w_v.new_empty(math.prod(shape))
        return State(self._room[: math.prod(shape)].view(shape), (), None)

    def first(self, state: State) -> Float[Tensor, "pos row kv_width"]:
        """Give where to write what the heads of a block carry to a state that has begun, for `settle`."""
        return state.coordinates[:, :, : self._kv_width]

    def settle(self, state: State, points: Float[Tensor, "row d_model"] | None, rows: Standing, layer: int) -> None:
        """Let a state read what was written to its place, and besides single positions."""
        if self._most_layers:
            state.layers, state.points = (layer,), points
            return
        state.coordinates = multiply(state.coordinates, self._blocks[layer].w_v).to(self._sums)
        if points is not None:
            state.coordinates[rows.positions, rows.numbers] += points

    def last_apart(self, layer: int) -> int:
        """Give the lowest layer that meets a state from some layer while it is in the coordinates of value spans."""
        return max(0, layer - self._most_layers)

    def read(self, state: State) -> Float[Tensor, "pos row coordinate"]:
        """Give what the rows read, as products take it."""
        if not state.layers:
            return state.coordinates.to(self._products)
        found = state.coordinates[:, :, : len(state.layers) * self._kv_width]
        # Products in bfloat16 would copy them for each band, transposed.
        return found.contiguous() if self._products == torch.bfloat16 else found

    def place(self, state: State) -> Float[Tensor, "pos row kv_width"]:
        """Give where to write what the heads of a block carry, for `take_in`."""
        length = len(state.layers) * self._kv_width
        if self._has_place(state):
            return state.coordinates[:, :, length : length + self._kv_width]
        return state.coordinates.new_empty(*state.coordinates.shape[:2], self._kv_width, dtype=self._products)

    def _has_place(self, state: State) -> bool:
        return bool(state.layers) and (len(state.layers) + 1) * self._kv_width <= state.coordinates.shape[2]

    def take_in(self, state: State, carried: Float[Tensor, "pos row kv_width"], rows: Standing, layer: int) -> None:
        """Add to a state what the heads of a block carry, which was written to its place."""
        if self._has_place(state):
            state.layers = (*state.layers, layer)
            return
        if state.layers:
            state.coordinates = multiply(self.read(state), self.spans(state.layers)).to(self._sums)
            if state.points is not None:
                state.coordinates[rows.positions, rows.numbers] += state.points
            state.layers, state.points = (), None
        state.coordinates += multiply(carried, self._blocks[layer].w_v)
