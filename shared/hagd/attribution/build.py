"""The rows of a local graph: of all active features, or of those that most influence reaches.

With a budget, layers are visited from the last to the first, so the influence of a layer's features is known, over all
rows taken so far, before any of them gets a row. The choice is made without keeping a row; then the rows of what was
chosen are taken again, on the chosen columns alone. So memory grows with the square of the budget, not with what is
active; and where even that is too much, rows lie in a file.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hagd.attribution.build_heads import take_rows
from hagd.attribution.columns import Columns
from hagd.attribution.descent import Descent
from hagd.attribution.frozen import FrozenPrompt, Stream
from hagd.attribution.reading import Readers, read_features, read_targets
from hagd.attribution.row_table import RowTable
from hagd.attribution.targets import Targets
from hagd.errors import InvalidInputError, NonFiniteError
from hagd.graphs.local_graph import LocalGraph

Progress = Callable[[float, float, str], None]


def silent(_done: float, _total: float, _message: str) -> None:
    """Report progress to nobody."""


BUFFER_CELLS: Final = 1 << 27
"""Cells of the rows over all columns that are held while features are chosen."""
MOST_TOGETHER: Final = 512
"""Targets that go down together, at most."""
ADD_UP_TOLERANCE: Final = 1e-4
"""How far a row with all its edges may be from its scalar, relative to the absolute values of its parts."""
HALF_ADD_UP_TOLERANCE: Final = 2e-2
"""The same in bfloat16, of all rows together: a single one of large vectors with small products may be farther off."""


@dataclass(frozen=True)
class LocalGraphConfig:
    """What decides the graph of a given prompt and targets."""

    most_features: int | None = None
    """Features with a node; None for all that are active."""
    half: bool = False
    """Products in bfloat16, where the device has instructions for them; the stream of targets stays in float32. The
    rows of a graph whose heads are nodes are in the model's own precision."""
    heads: bool = False
    """Heads are nodes, and cut points: other edges stay at their position."""


@dataclass(frozen=True)
class PromptText:
    """What a prompt is called."""

    prompt: str
    token_texts: tuple[str, ...]


@torch.no_grad()
def build_local_graph(
    frozen: FrozenPrompt,
    text: PromptText,
    targets: Targets,
    config: LocalGraphConfig,
    progress: Progress,
    folder: Path | None = None,
) -> LocalGraph:
    """Take the rows of targets and features.

    Args:
        frozen: the prompt.
        text: what it is called.
        targets: what the graph ends at.
        config: what decides the graph.
        progress: told of what is done.
        folder: where rows go into a file, which goes with the graph; None for memory. The graph is the same.

    Raises:
        OSError: the folder has no room for the rows.
        InvalidInputError: the number of features is not positive, or none is active on the prompt.
        NonFiniteError: an edge is NaN or infinite, or the edges into a node do not add up to its scalar.
    """
    if config.most_features is not None and config.most_features < 1:
        raise InvalidInputError(f"a graph of {config.most_features} features", "ask for at least one")
    if frozen.n_active == 0:
        raise InvalidInputError(
            "no feature is active on this prompt", "check that the dictionaries belong to this model, or use neurons"
        )
    quiet = frozen.replay(nodes=False)
    ends = read_targets(frozen, quiet, targets)
    everything = Columns.of(frozen)
    if config.most_features is None or config.most_features >= everything.n_features:
        keep, received = None, None
        columns = everything
    else:
        keep, received = _choose(frozen, quiet, ends, targets, everything, config, progress)
        columns = Columns.of(frozen, keep)
    if config.heads:
        left = None if keep is None else [~it for it in keep]
        found = take_rows(frozen, columns, targets, left, progress, folder)
        table, scalars, biases, left_out_abs = found.table, found.scalars, found.biases, found.left_out_abs
        heads = found.heads
    else:
        table, scalars, biases = _rows(frozen, quiet, ends, columns, config, progress, folder)
        heads, left_out_abs = np.zeros((0, 3), dtype=np.int64), torch.zeros_like(scalars)
    # Rows lie on the CPU, and so does what is found from them.
    scalars, biases, left_out_abs = scalars.cpu(), biases.cpu(), left_out_abs.cpu()
    received = None if received is None else received.cpu()
    sums, strength = torch.empty_like(scalars), biases.abs()
    for place, edges in table.parts():
        sums[place] = edges.sum(1)
        if config.heads:
            continue
        absolute = torch.linalg.vector_norm(edges, 1, dim=1)
        strength[place] += absolute
        if received is not None:
            left_out_abs[place] = (received[place] - absolute).clamp_min(0)
    if not torch.isfinite(sums).all():
        raise NonFiniteError("the graph holds NaN or infinity", "check the weights of model and dictionaries")
    left_out = scalars - biases - sums
    if keep is None:
        if not config.heads:
            _check_sums(left_out, strength, half=config.half)
        left_out.zero_()
    values = torch.cat([layer.features.values[at] for layer, at in zip(frozen.layers, columns.chosen, strict=True)])
    features = torch.stack([columns.layers, columns.positions, columns.ids], dim=1)
    return LocalGraph(
        prompt=text.prompt,
        tokens=frozen.tokens.cpu().numpy(),
        token_texts=text.token_texts,
        n_layers=columns.n_layers,
        features=features.cpu().numpy(),
        activations=values.float().cpu().numpy(),
        targets=targets.named,
        rows=table.array(),
        scalars=scalars.float().numpy(),
        biases=biases.float().numpy(),
        left_out=left_out.float().numpy(),
        left_out_abs=left_out_abs.float().numpy(),
        heads=heads,
        directions=_directions(targets),
    )


def _directions(targets: Targets) -> Float[np.ndarray, "target d_model"] | None:
    """Give the directions that no vocabulary tells."""
    if all(it.token is not None for it in targets.named):
        return None
    return targets.directions.float().cpu().numpy()


def _check_sums(missing: Float[Tensor, " row"], strength: Float[Tensor, " row"], *, half: bool) -> None:
    """Check that all edges into a node and its bias make its scalar, as the run had it.

    Raises:
        NonFiniteError: they do not.
    """
    if half:
        off, allowed = float(missing.abs().sum() / strength.sum().clamp_min(1e-30)), HALF_ADD_UP_TOLERANCE
    else:
        off, allowed = float((missing.abs() / strength.clamp_min(1e-30)).max()), ADD_UP_TOLERANCE
    if not off <= allowed:
        raise NonFiniteError(
            f"the edges into nodes differ from what these read in the run by {off:.1e} of their sizes",
            "leave out `half`" if half else "run the model in float32; if it is, its weights are too large for it",
        )


def chunks(readers: Readers, most_places: int, most: int = MOST_TOGETHER) -> Iterator[tuple[slice, Readers]]:
    """Split targets, sorted by position, into those that go down together, as `Descent.most_places` says."""
    for rows in parts_together(readers.positions.tolist(), most_places, most):
        yield rows, readers.part(rows)


def parts_together(positions: Sequence[int], most_places: int, most: int = MOST_TOGETHER) -> Iterator[slice]:
    """Give the parts that `chunks` makes of targets at some positions."""
    start = 0
    while start < len(positions):
        count = 1
        # A chunk is as deep as its last position.
        while start + count < len(positions) and count < most:
            if (count + 1) * (positions[start + count] + 1) > most_places and count >= 16:
                break
            count += 1
        yield slice(start, start + count)
        start += count


def _rows(
    frozen: FrozenPrompt,
    quiet: Stream,
    ends: Readers,
    columns: Columns,
    config: LocalGraphConfig,
    progress: Progress,
    folder: Path | None,
) -> tuple[RowTable, Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Take the rows of the features that have columns, then of the targets; give them with scalars and biases."""
    descent = Descent(frozen, columns, half=config.half)
    n_rows = columns.n_features + len(ends)
    table = RowTable(n_rows, len(columns), frozen.embed, folder)
    scalars, biases = frozen.embed.new_zeros(n_rows), frozen.embed.new_zeros(n_rows)
    done = 0
    for layer in range(columns.n_layers + 1):
        if layer < columns.n_layers and len(columns.chosen[layer]) == 0:
            continue
        readers = read_features(frozen, quiet, layer, columns.chosen[layer]) if layer < columns.n_layers else ends
        for part, some in chunks(readers, descent.most_places):
            at = slice(done + part.start, done + part.stop)
            with table.writing(at) as edges:
                descent.run(some.vectors, some.positions, some.site, edges)
            scalars[at], biases[at] = some.scalars, some.biases
            progress(at.stop, n_rows, f"edges of {n_rows} nodes, layer {layer}")
        done += len(readers)
    return table, scalars, biases


def _choose(
    frozen: FrozenPrompt,
    quiet: Stream,
    ends: Readers,
    targets: Targets,
    columns: Columns,
    config: LocalGraphConfig,
    progress: Progress,
) -> tuple[list[Bool[Tensor, " _"]], Float[Tensor, " row"]]:
    """Choose features by the influence that reaches them.

    Result: by layer, which active features are chosen; and what each row of the graph receives in absolute value from
    all sources.
    """
    descent = Descent(frozen, columns, half=config.half)
    budget = left = int(config.most_features or 0)
    influence = torch.zeros(len(columns), dtype=torch.float64, device=frozen.embed.device)
    buffer = torch.empty(0, device=frozen.embed.device)

    def take(readers: Readers, reached: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        nonlocal buffer
        received = torch.empty(len(readers), device=frozen.embed.device)
        most = max(16, min(MOST_TOGETHER, BUFFER_CELLS // len(columns)))
        for part, some in chunks(readers, descent.most_places, most):
            if buffer.numel() < len(some) * len(columns):
                buffer = torch.empty(len(some) * len(columns), device=frozen.embed.device)
            out = buffer[: len(some) * len(columns)].view(len(some), -1).zero_()
            descent.run(some.vectors, some.positions, some.site, out)
            absolute = out.abs_()
            received[part] = absolute.sum(1)
            share = reached[part].float() / received[part].clamp_min(1e-30)
            influence.add_(share @ absolute)
        return received

    keep = [torch.zeros(len(it), dtype=torch.bool, device=it.device) for it in columns.chosen]
    weights = torch.tensor([target.weight for target in targets.named], device=frozen.embed.device)
    received = [take(ends, weights)]
    for layer in reversed(range(columns.n_layers)):
        here = columns.of_layer(layer)
        if left == 0 or here.start == here.stop:
            continue
        best = influence[: here.stop].topk(min(left, here.stop))
        chosen = best.indices[(best.indices >= here.start) & (best.values > 0)].sort().values - here.start
        if len(chosen) == 0:
            continue
        keep[layer][chosen] = True
        left -= len(chosen)
        received.append(take(read_features(frozen, quiet, layer, chosen), influence[here][chosen]))
        progress(budget - left, budget, f"choosing {budget} of {columns.n_features} features, layer {layer}")
    return keep, torch.cat(list(reversed(received)))
