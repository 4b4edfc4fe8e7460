"""Gemma Scope transcoders of Gemma 2: `layer_3/width_16k/average_l0_54/params.npz`.

    W_enc (d_model, d_feature)   b_enc   W_dec (d_feature, d_model)   b_dec   threshold: all float32, a JumpReLU

They were trained on the residual after the RMSNorm with its gain folded into the MLP, that is without the gain, and on
the MLP's output after the norm that Gemma 2 has there. The file says nothing of this. Folders of autoencoders look the
same but for their name, so a name that tells of one is refused, and `probe` finds the others.
"""

import re

from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats.files import Folder, take
from hagd.dictionaries.formats.found import Found, layers_of, make_transcoder
from hagd.errors import InvalidInputError

NAME = "gemma-scope"
_PARAMS = "params.npz"
FILES = (f"**/{_PARAMS}",)
_RELEASE = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(\w+)")


def matches(folder: Folder) -> bool:
    return bool(folder.below(_PARAMS))


def read(folder: Folder) -> Found:
    """Read the folder of one layer, or one that holds one of each layer.

    Raises:
        InvalidInputError: it is an autoencoder, damaged, or has a layer twice, as a whole release has for every width.
    """
    return Found(
        source_format=NAME,
        content=layers_of(map(_read_layer, folder.below(_PARAMS)), folder.path.name),
        space="normalised",
        base_model=_base_model(folder),
    )


def _read_layer(folder: Folder) -> Dictionary:
    arrays = folder.arrays(_PARAMS)
    return make_transcoder(
        folder.layer(),
        w_enc=take(arrays, "W_enc", _PARAMS),
        b_enc=take(arrays, "b_enc", _PARAMS),
        w_dec=take(arrays, "W_dec", _PARAMS),
        b_dec=take(arrays, "b_dec", _PARAMS),
        # A feature is relu(x) where x exceeds its threshold, so a negative one is as good as 0.
        threshold=take(arrays, "threshold", _PARAMS).clamp(min=0),
    )


def _base_model(folder: Folder) -> str | None:
    release = _RELEASE.search(str(folder.path.resolve()))
    if release is None:
        return None
    size, tuned, site = release.groups()
    if site != "transcoders":
        raise InvalidInputError(
            f"{release.group()} is a release of autoencoders", "give one of gemma-scope-2b-pt-transcoders"
        )
    return f"google/gemma-2-{size}{'-it' if tuned == 'it' else ''}"
