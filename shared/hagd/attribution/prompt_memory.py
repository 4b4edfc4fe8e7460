"""What the run of a prompt takes, told before it is begun: patterns grow with the square of its length.

Of features as many are counted as are known to be active: all neurons, and what TopK keeps. How many a threshold lets
through is seen only in the run.
"""

from typing import Final

from hagd.attribution.replacement import Replacement
from hagd.errors import InvalidInputError
from hagd.models.language_model import LanguageModel

_STREAMS: Final = 5
"""Tensors of the size of the stream that are kept of a layer, and those that are alive beside them in its run."""
_SCORES: Final = 2
"""Copies of a pattern while it is made."""
_DENSE: Final = 4
"""Copies of all activations of a layer, zeros included, while those that are active are sought."""
_ACTIVE_CELLS: Final = 6
"""Numbers that are kept of an active feature, in cells of four bytes: position and id have eight."""


def require_room(model: LanguageModel, replacement: Replacement, n_pos: int, memory_bytes: int) -> None:
    """Refuse a prompt whose run would take more memory than there is.

    Raises:
        InvalidInputError: it would; says how long a prompt may be.
    """
    needed = prompt_bytes(model, replacement, n_pos)
    if needed <= memory_bytes:
        return
    longest, beyond = 0, n_pos
    while beyond - longest > 1:
        middle = (longest + beyond) // 2
        if prompt_bytes(model, replacement, middle) <= memory_bytes:
            longest = middle
        else:
            beyond = middle
    raise InvalidInputError(
        f"running {n_pos} tokens takes about {needed / 2**30:.1f} GiB, and {memory_bytes / 2**30:.1f} GiB are there",
        f"give a prompt of at most {longest} tokens" if longest else "use a machine with more memory",
    )


def prompt_bytes(model: LanguageModel, replacement: Replacement, n_pos: int) -> int:
    """Give what `freeze` takes at its peak, above model and dictionaries."""
    shape, layers = model.config, range(model.config.n_layers)
    stream, pattern = n_pos * shape.d_model, shape.n_heads * n_pos**2
    features = [replacement.n_features(layer) for layer in layers]
    kept = 2 * stream + shape.n_layers * (pattern + _STREAMS * stream)
    kept += _ACTIVE_CELLS * n_pos * sum(replacement.surely_active(layer) for layer in layers)
    in_a_layer = max(_SCORES * pattern, 3 * n_pos * shape.d_mlp, _DENSE * n_pos * max(features)) + _STREAMS * stream
    # It is run again to be checked, on what was frozen.
    again = 2 * shape.n_layers * stream + _STREAMS * stream + n_pos * max(features)
    return model.embed.element_size() * (kept + max(in_a_layer, again))
