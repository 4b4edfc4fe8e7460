"""A cross-layer transcoder against sums worked out layer by layer, and its storage."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hagd.artifacts.document import Document
from hagd.dictionaries.cross_layer import CrossLayerTranscoder, cross_layer_from_document, cross_layer_to_document
from hagd.errors import CorruptArtifactError

LAYERS, D_MODEL, D_FEATURE, TOKENS = 3, 5, 7, 11


def transcoder(*, skips: bool = False, jumps: bool = False) -> CrossLayerTranscoder:
    draw = torch.Generator().manual_seed(0)

    def tensors(*shape: int) -> tuple[torch.Tensor, ...]:
        return tuple(torch.randn(*shape, generator=draw) for _ in range(LAYERS))

    return CrossLayerTranscoder(
        activation="relu",
        w_enc=tensors(D_MODEL, D_FEATURE),
        b_enc=tensors(D_FEATURE),
        w_dec=tuple(torch.randn(LAYERS - source, D_FEATURE, D_MODEL, generator=draw) for source in range(LAYERS)),
        b_dec=tensors(D_MODEL),
        w_skip=tensors(D_MODEL, D_MODEL) if skips else None,
        threshold=tuple(it.abs() for it in tensors(D_FEATURE)) if jumps else None,
    )


def test_a_layer_is_rebuilt_from_the_features_of_all_layers_up_to_it() -> None:
    clt = transcoder(skips=True, jumps=True)
    x = torch.randn(LAYERS, TOKENS, D_MODEL, generator=torch.Generator().manual_seed(1))
    features = [clt.encode(layer, x[layer]) for layer in range(LAYERS)]
    assert clt.w_skip is not None and clt.threshold is not None
    for target in range(LAYERS):
        expected = clt.b_dec[target].numpy() + x[target].numpy() @ clt.w_skip[target].numpy()
        for source in range(target + 1):
            pre = x[source].numpy() @ clt.w_enc[source].numpy() + clt.b_enc[source].numpy()
            active = np.where(pre > clt.threshold[source].numpy(), pre, 0)
            expected = expected + active @ clt.w_dec[source][target - source].numpy()
        np.testing.assert_allclose(clt.decode(target, features, x[target]).numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("changes", "k"), [({}, None), ({"skips": True}, None), ({"jumps": True}, None), ({}, 3)])
def test_it_is_stored_and_comes_back_bit_for_bit(changes: dict[str, bool], k: int | None) -> None:
    original = replace(transcoder(**changes), k=k)
    document = Document.decode(cross_layer_to_document(original, {"fvu": 0.25}).encode())
    assert document.content["metrics"] == {"fvu": 0.25}
    read = cross_layer_from_document(document)
    for name, before in vars(original).items():
        after = getattr(read, name)
        if isinstance(before, tuple):
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), name
        else:
            assert before == after


def test_layers_that_do_not_fit_are_refused() -> None:
    clt = transcoder()
    with pytest.raises(ValueError, match=r"w_dec of layer 1 has shape \(3, 7, 5\), expected \(2, 7, 5\)"):
        replace(clt, w_dec=(clt.w_dec[0], clt.w_dec[0], clt.w_dec[2]))
    with pytest.raises(ValueError, match="there are 3 encoders, but b_dec has 2 layers"):
        replace(clt, b_dec=clt.b_dec[:2])


def test_a_damaged_document_is_refused() -> None:
    document = cross_layer_to_document(transcoder(), {})
    tensors = {name: value for name, value in document.tensors.items() if name != "1.w_dec"}
    with pytest.raises(CorruptArtifactError, match=r"1\.w_dec"):
        cross_layer_from_document(replace(document, tensors=tensors))
    with pytest.raises(CorruptArtifactError, match="'swish' is unknown"):
        cross_layer_from_document(replace(document, content={**document.content, "activation": "swish"}))
    with pytest.raises(CorruptArtifactError, match="schema"):
        cross_layer_from_document(Document({"schema": "hagd.task/v1"}))
