"""What is written at each position, packed so that positions next to each other are met by one product.

A few features are active at a position, and a product with so few columns leaves most of a processor idle. So
positions are taken together in bands, where each has the same room, filled up with zeros.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

MOST_FILLED: Final = 1.25
"""How many times its content a band may be,"""
ROOM_TO_SPARE: Final = 2
"""besides so much room at each position, which costs less than one band more."""


@dataclass(frozen=True)
class Band:
    """Positions that are met together."""

    first: int
    last: int
    """The position behind the last one."""
    room: int
    """How many may be written at each."""
    start: int
    """Where the band begins among all that is packed."""


def bands_of(
    counts: Sequence[int], most_filled: float = MOST_FILLED, room_to_spare: int = ROOM_TO_SPARE
) -> tuple[Band, ...]:
    """Put positions into bands by how many are written at each; those with nothing before a band are left out."""
    bands: list[Band] = []
    first = written = room = start = 0
    for pos, count in enumerate([*counts, 0]):
        more, wider, length = written + count, max(room, count), pos + 1 - first
        if written and (pos == len(counts) or wider > most_filled * more / length + room_to_spare):
            bands.append(Band(first, pos, room, start))
            start += (pos - first) * room
            first, more, wider = pos, count, count
        if more == 0:
            first = pos + 1
        written, room = more, wider
    return tuple(bands)


def filled(bands: Sequence[Band]) -> int:
    """Count the room of some bands."""
    return sum(band.room * (band.last - band.first) for band in bands)


@dataclass(frozen=True)
class Slots:
    """Where in its band each of some vectors stands."""

    positions: Int[Tensor, " written"]
    numbers: Int[Tensor, " written"]
    """Of those at the same position, counted from 0."""
    bands: tuple[Band, ...]

    @cached_property
    def places(self) -> Int[Tensor, " written"]:
        """Give where each stands among all that is packed."""
        starts, rooms = torch.zeros(2, int(self.positions.max()) + 1, dtype=torch.int64).unbind()
        for band in self.bands:
            here = slice(band.first, band.last)
            rooms[here] = band.room
            starts[here] = band.start + band.room * torch.arange(len(starts[here]))
        return starts.to(self.positions.device)[self.positions] + self.numbers

    def pack(self, written: Float[Tensor, "written coordinate"]) -> Float[Tensor, "slot coordinate"]:
        """Give the vectors by band, position and slot."""
        packed = written.new_zeros(self.size(), written.shape[1])
        packed[self.places] = written
        return packed

    def size(self, n_pos: int | None = None) -> int:
        """Give how long what is packed is, up to a position."""
        ends = [it.start + (min(it.last, n_pos or it.last) - it.first) * it.room for it in self.before(n_pos)]
        return max(ends, default=0)

    def before(self, n_pos: int | None) -> Iterator[Band]:
        """Give the bands that begin before a position."""
        return (band for band in self.bands if n_pos is None or band.first < n_pos)
