"""Files that other tools wrote themselves (`golden/`), read here, give what those tools compute with them."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from hagd.dictionaries.formats import circuit_tracer
from hagd.dictionaries.formats.registry import read_folder
from unit.dictionaries.formats.layouts import by_layer

GOLDEN = Path(__file__).parent / "golden"


def test_what_eai_sparsify_wrote_gives_the_features_and_outputs_of_eai_sparsify() -> None:
    computed = load_file(GOLDEN / "sparsify" / "computed.safetensors")
    found = read_folder(GOLDEN / "sparsify")
    assert (found.source_format, found.space) == ("sparsify", "mlp-input")
    (dictionary,) = by_layer(found).values()
    assert (dictionary.layer, dictionary.k, dictionary.w_enc.shape) == (1, 3, (8, 16))
    features = dictionary.encode(computed["x"])
    theirs = torch.zeros_like(features).scatter(1, computed["features"].long(), computed["acts"])
    torch.testing.assert_close(features, theirs)
    torch.testing.assert_close(dictionary.decode(features, computed["x"]), computed["out"])


def test_what_circuit_tracer_wrote_gives_its_features_and_outputs_and_the_same_files_again(tmp_path: Path) -> None:
    computed = load_file(GOLDEN / "circuit-tracer" / "computed.safetensors")
    found = read_folder(GOLDEN / "circuit-tracer")
    assert (found.source_format, found.space, found.base_model) == ("circuit-tracer", "mlp-input", "tiny")
    for layer, dictionary in by_layer(found).items():
        x = computed["x"][layer]
        features = dictionary.encode(x)
        assert 0 < int((features != 0).sum()) < features.numel()
        torch.testing.assert_close(features, computed["acts"][layer])
        torch.testing.assert_close(dictionary.decode(features, x), computed["out"][layer])
    circuit_tracer.write(by_layer(found), tmp_path, "tiny")
    for layer in by_layer(found):
        name = f"layer_{layer}.safetensors"
        theirs, ours = load_file(GOLDEN / "circuit-tracer" / name), load_file(tmp_path / name)
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[it], ours[it]) for it in theirs)
