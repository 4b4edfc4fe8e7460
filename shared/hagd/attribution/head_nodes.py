"""The rows of a graph in which every head at every position is a node.

With heads as cut points no other edge leaves its position, so here it is the sources that go up: at each depth, what
each of them has put into the stream at its own position, skip paths included and heads not, is one vector. It is met
there by what features read at that position, and by what heads read of all positions before theirs.

A head writes a vector, so what it hands on of a source has `d_head` numbers. Its row holds one of them: the part along
all that the head writes (`OutputReaders`). Rows in every direction give exact sums over paths through heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.attribution.blocks import features_written, through
from hagd.attribution.columns import Columns
from hagd.attribution.frozen import FrozenPrompt, Stream
from hagd.attribution.reading import Readers

Put = Callable[[slice, Int[Tensor, " source"], Float[Tensor, "row source"]], None]
"""Takes edges into some rows from some sources."""


@dataclass(frozen=True)
class OutputReaders:
    """What reads the output of one head at every position: a direction in it for each row, rows by position."""

    directions: Float[Tensor, "row d_head"]
    positions: Int[Tensor, " row"]
    layer: int
    head: int


@dataclass(frozen=True)
class HeadOutputs:
    """What the heads of a prompt give."""

    inner: tuple[Float[Tensor, "head pos d_head"], ...]
    """By layer: before their output projections."""
    written: tuple[Float[Tensor, "head pos d_model"], ...]
    """By layer: to the residual stream."""

    @staticmethod
    def of(frozen: FrozenPrompt) -> "HeadOutputs":
        """Read them back from the frozen prompt."""
        inner = [
            frozen.head_outputs(number, resid).transpose(0, 1)
            for number, resid in enumerate(frozen.stream.before_attention)
        ]
        blocks = zip(inner, frozen.model.blocks, strict=True)
        return HeadOutputs(tuple(inner), tuple(z @ block.attention.w_o for z, block in blocks))

    def along_output(self, frozen: FrozenPrompt, layer: int, head: int) -> OutputReaders:
        """Give what reads each output of a head along what it writes; its own part is the length of that."""
        written = self.written[layer][head]
        lengths = written.norm(dim=1, keepdim=True).clamp_min(torch.finfo(written.dtype).tiny)
        directions = written / lengths @ frozen.model.blocks[layer].attention.w_o[head].T
        return OutputReaders(directions, torch.arange(len(written), device=written.device), layer, head)


class _Sources:
    """Some sources, and what they have put into the stream at their own positions by one depth.

    Depth 0 is the embedding, 2 l + 1 the heads of block l, 2 l + 2 its MLP.
    """

    def __init__(self, frozen: FrozenPrompt, columns: Columns, outputs: HeadOutputs | None) -> None:
        """Begin below the first block; without `outputs` features alone are sources."""
        self._frozen, self._columns, self._outputs = frozen, columns, outputs
        n_layers, n_heads, n_pos = columns.n_layers, frozen.model.config.n_heads, columns.n_pos
        self._n_heads = n_heads
        positions, depths = [columns.positions], [2 * columns.layers + 2]
        if outputs is not None:
            layers = torch.arange(n_layers, device=columns.positions.device)
            everywhere = torch.arange(n_pos, device=columns.positions.device)
            positions += [everywhere.repeat(n_layers + 1), everywhere.repeat(n_layers * n_heads)]
            depths += [(2 * layers + 2).repeat_interleave(n_pos), torch.zeros_like(everywhere)]
            depths += [(2 * layers + 1).repeat_interleave(n_heads * n_pos)]
        self.positions, self._depths = torch.cat(positions), torch.cat(depths)
        self.written = frozen.embed.new_zeros(len(self.positions), frozen.embed.shape[1])
        if outputs is not None:
            self.written[columns.token() : columns.token() + n_pos] = frozen.embed

    def below(self, depth: int) -> Int[Tensor, " source"]:
        """Give the sources that have written something before a depth."""
        return (self._depths < depth).nonzero()[:, 0]

    def add_heads(self, layer: int) -> None:
        """Let the heads of a block write."""
        if self._outputs is not None:
            first, size = self._columns.token() + self._columns.n_pos, self._n_heads * self._columns.n_pos
            here = slice(first + layer * size, first + (layer + 1) * size)
            self.written[here] = self._outputs.written[layer].flatten(0, 1)

    def through_skip(self, layer: int) -> Float[Tensor, "source d_model"] | None:
        """Give what the skip path of an MLP makes of what is there now."""
        skip = self._frozen.replacement.skip(layer)
        if skip is None:
            return None
        matrix = through(self._frozen.model.blocks[layer].norm_mlp, skip.T).T
        return (self.written * self._frozen.layers[layer].mlp_scale[self.positions]) @ matrix

    def add_mlp(self, layer: int) -> None:
        """Let the features and errors of a block write."""
        for source, w_dec in self._frozen.replacement.writers(layer).items():
            self.written[self._columns.of_layer(source)] += features_written(self._frozen, self._columns, source, w_dec)
        if self._outputs is not None:
            at = self._columns.error(layer)
            self.written[at : at + self._columns.n_pos] = self._frozen.layers[layer].error


def climb(
    frozen: FrozenPrompt,
    columns: Columns,
    outputs: HeadOutputs | None,
    readers: Sequence[tuple[slice, Readers]],
    head_readers: Sequence[tuple[slice, OutputReaders]],
    put: Put,
) -> None:
    """Take the edges into some rows from all sources.

    Args:
        frozen: the prompt.
        columns: its features, errors and tokens, in the order of the sources; heads come behind them.
        outputs: what heads give; None to leave out all sources but features.
        readers: rows, and what features and targets read there.
        head_readers: rows, and what is read there of the output of a head.
        put: takes the edges.
    """
    sources, parallel = _Sources(frozen, columns, outputs), frozen.model.config.parallel_residual
    for layer in range(columns.n_layers):
        _meet_heads(frozen, sources, [it for it in head_readers if it[1].layer == layer], layer, put)
        mlps = [it for it in readers if it[1].site.layer == layer]
        if parallel:
            beside = sources.through_skip(layer)
            _meet_points(sources, mlps, 2 * layer + 1, put)
            sources.add_heads(layer)
        else:
            sources.add_heads(layer)
            beside = sources.through_skip(layer)
            _meet_points(sources, mlps, 2 * layer + 2, put)
        if beside is not None:
            sources.written += beside
        sources.add_mlp(layer)
    ends = [it for it in readers if it[1].site.layer == columns.n_layers]
    _meet_points(sources, ends, 2 * columns.n_layers + 1, put)


def biases_of_outputs(frozen: FrozenPrompt, silent: Stream, readers: OutputReaders) -> Float[Tensor, " row"]:
    """Give what reads a head's output when only biases write; `silent` is the stream that they make without heads."""
    z = frozen.head_outputs(readers.layer, silent.before_attention[readers.layer])[:, readers.head]
    return (readers.directions * z[readers.positions]).sum(1)


def _meet_heads(
    frozen: FrozenPrompt, sources: _Sources, readers: Sequence[tuple[slice, OutputReaders]], layer: int, put: Put
) -> None:
    attention, state = frozen.model.blocks[layer].attention, frozen.layers[layer]
    norm, there = frozen.model.blocks[layer].norm_attention, sources.below(2 * layer + 1)
    written, positions = sources.written[there], sources.positions[there]
    values = [written @ through(norm, w_v.T).T for w_v in attention.w_v]
    for rows, it in readers:
        weights = (state.pattern[it.head] * state.attention_scale[:, 0])[it.positions]
        met = it.directions @ values[it.head // frozen.model.config.group_size].T
        put(rows, there, met * weights[:, positions])


def _meet_points(sources: _Sources, readers: Sequence[tuple[slice, Readers]], depth: int, put: Put) -> None:
    there = sources.below(depth)
    places = sources.positions[there]
    for rows, it in readers:
        for pos in it.positions.unique().tolist():
            mine, here = (it.positions == pos).nonzero()[:, 0], there[places == pos]
            first, last = rows.start + int(mine[0]), rows.start + int(mine[-1]) + 1
            put(slice(first, last), here, it.vectors[mine] @ sources.written[here].T)
