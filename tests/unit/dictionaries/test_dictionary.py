"""A dictionary's forward pass, against numbers worked out by hand."""

from dataclasses import replace

import torch

from hagd.dictionaries.dictionary import keep_top, neurons_of
from hagd.models.language_model import Mlp


def random_mlp(*, gated: bool, activation: str) -> Mlp:
    draw = torch.Generator().manual_seed(0)
    d_model, d_mlp = 7, 11

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    if gated:
        return Mlp(activation, tensor(d_model, d_mlp), tensor(d_model, d_mlp), None, tensor(d_mlp, d_model), None)
    return Mlp(activation, None, tensor(d_model, d_mlp), tensor(d_mlp), tensor(d_mlp, d_model), tensor(d_model))


def test_neurons_are_the_mlp_itself_for_plain_and_gated_mlps() -> None:
    x = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(1))
    for mlp in (random_mlp(gated=False, activation="relu"), random_mlp(gated=True, activation="silu")):
        dictionary = neurons_of(mlp, layer=2)
        assert dictionary.k is None
        torch.testing.assert_close(dictionary.decode(dictionary.encode(x), x), mlp(x))


def test_top_k_ranks_by_activation_times_decoder_norm_and_keeps_signs() -> None:
    dense = torch.tensor([[3.0, -2.0, 1.0, 0.5]])
    norms = torch.tensor([0.1, 1.0, 1.0, 10.0])  # scores .3, 2, 1, 5
    assert keep_top(dense, norms, 2).tolist() == [[0.0, -2.0, 0.0, 0.5]]
    assert keep_top(dense, norms, 4) is dense


def test_top_k_by_activation_alone_pays_no_heed_to_decoders() -> None:
    mlp = random_mlp(gated=False, activation="relu")
    plain = replace(neurons_of(mlp, 0), k=4)
    x = torch.randn(13, 7, generator=torch.Generator().manual_seed(6))
    by_activation = replace(plain, ranked_by="activation")
    dense = replace(plain, k=None).encode(x)
    lowest = dense.sort(dim=-1, descending=True).values[:, 3:4]
    assert torch.equal(by_activation.encode(x), torch.where(dense >= lowest, dense, 0.0))
    assert not torch.equal(by_activation.encode(x), plain.encode(x))
    unit = replace(by_activation, w_dec=plain.w_dec / plain.w_dec.norm(dim=-1, keepdim=True))
    assert torch.equal(unit.encode(x), by_activation.encode(x))


def test_rescaling_a_feature_against_its_decoder_changes_nothing() -> None:
    mlp = random_mlp(gated=False, activation="relu")
    plain = replace(neurons_of(mlp, 0), k=4)
    scale = torch.linspace(0.2, 5.0, 11)
    scaled = replace(plain, w_enc=plain.w_enc * scale, b_enc=plain.b_enc * scale, w_dec=plain.w_dec / scale[:, None])
    x = torch.randn(13, 7, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(scaled.decode(scaled.encode(x), x), plain.decode(plain.encode(x), x))


def test_the_skip_path_adds_a_linear_map_of_the_input() -> None:
    mlp = random_mlp(gated=False, activation="gelu")
    skip = torch.randn(7, 7, generator=torch.Generator().manual_seed(3))
    without = neurons_of(mlp, 0)
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(4))
    features = without.encode(x)
    torch.testing.assert_close(
        replace(without, w_skip=skip).decode(features, x), without.decode(features, x) + x @ skip
    )


def test_a_threshold_lets_an_activation_through_whole_or_not_at_all_feature_by_feature() -> None:
    mlp = random_mlp(gated=False, activation="relu")
    plain = neurons_of(mlp, 0)
    x = torch.randn(13, 7, generator=torch.Generator().manual_seed(5))
    dense = plain.encode(x)
    threshold = dense.max(0).values * torch.linspace(0.0, 1.0, 11)
    jumping = replace(plain, threshold=threshold)
    expected = torch.where(dense > threshold, dense, 0.0)
    assert torch.equal(jumping.encode(x), expected)
    assert not expected[:, -1].any()
    used = torch.tensor([1, 4, 9])
    torch.testing.assert_close(jumping.only(used).encode(x), expected[:, used])
