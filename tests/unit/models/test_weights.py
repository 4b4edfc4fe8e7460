"""The flat table of weights, its digest, and both stored forms."""

import dataclasses
import hashlib
import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError
from hagd.models.architectures import convert
from hagd.models.language_model import LanguageModel
from hagd.models.storage import model_from_document, model_to_document, read_model, save_model
from hagd.models.trunk import plain_logits
from hagd.models.weights import config_to_json, is_tied, model_digest, named_tensors, weight_digest
from unit.models.tiny_models import random_tokens, tiny_gpt2, tiny_llama, tiny_neox

ORIGINALS = {
    "gpt2": tiny_gpt2,
    "gpt2-untied": lambda: tiny_gpt2(tied=False),
    "llama": tiny_llama,
    "llama-tied": lambda: tiny_llama(tied=True),
    "llama-scaled-positions": lambda: tiny_llama(scaled=True),
    "neox": tiny_neox,
    "neox-sequential-tied": lambda: tiny_neox(parallel=False, tied=True),
}


@pytest.fixture(params=ORIGINALS)
def model(request) -> LanguageModel:
    return convert(ORIGINALS[request.param]())


def test_a_model_survives_a_document_bit_by_bit(model) -> None:
    document = Document.decode(model_to_document(model).encode())
    again, tokens = model_from_document(document), random_tokens(3, 7)
    assert again.config == model.config
    assert is_tied(again) == is_tied(model)
    assert model_digest(again) == model_digest(model)
    assert torch.equal(plain_logits(again, tokens), plain_logits(model, tokens))


def test_what_only_newer_architectures_set_is_not_stored_for_others() -> None:
    older, newer = (set(config_to_json(convert(module).config)) for module in (tiny_llama(), tiny_neox()))
    assert newer - older == {"rotary_dims", "parallel_residual"}


def test_equal_models_encode_to_equal_bytes(model) -> None:
    assert model_to_document(model).encode() == model_to_document(dataclasses.replace(model)).encode()


def test_a_tied_unembedding_is_stored_once_and_arrays_share_the_models_memory() -> None:
    model = convert(tiny_llama(tied=True))
    document = model_to_document(model)
    assert "unembed" not in document.tensors
    assert document.tensors["embed"].__array_interface__["data"][0] == model.embed.data_ptr()


def test_reading_a_document_copies_no_weights(model) -> None:
    document = Document.decode(model_to_document(model).encode())
    read = named_tensors(model_from_document(document))
    for name, array in document.tensors.items():
        assert read[name].data_ptr() == array.__array_interface__["data"][0]


def test_a_model_survives_a_file_with_its_notes(model, tmp_path) -> None:
    save_model(model, tmp_path / "m.safetensors", {"source": "somewhere"})
    again, content = read_model(tmp_path / "m.safetensors")
    assert content["extra"] == {"source": "somewhere"}
    assert content["digest"] == model_digest(model) == model_digest(again)


def test_a_changed_weight_in_a_file_is_detected(model, tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(model, path, {})
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtifactError, match="do not match their digest"):
        read_model(path)


def test_a_file_that_is_cut_or_is_something_else_is_refused(model, tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(model, path, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptArtifactError, match="is not a stored model"):
        read_model(path)
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(CorruptArtifactError, match="is not a stored model"):
        read_model(path)


def test_a_document_of_another_kind_or_version_is_refused(model) -> None:
    document = model_to_document(model)
    with pytest.raises(CorruptArtifactError, match="found graph"):
        model_from_document(Document({"kind": "graph"}, document.tensors))
    with pytest.raises(CorruptArtifactError, match=r"found hagd\.model/0"):
        model_from_document(Document({**document.content, "format": "hagd.model/0"}, document.tensors))


def test_a_document_without_a_tensor_or_with_a_wrong_shape_is_refused(model) -> None:
    document = model_to_document(model)
    arrays = dict(document.tensors)
    del arrays["blocks.1.attention.w_k"]
    with pytest.raises(CorruptArtifactError, match=r"lack the tensor 'blocks\.1\.attention\.w_k'"):
        model_from_document(Document(document.content, arrays))
    arrays = {**document.tensors, "blocks.2.mlp.w_in": document.tensors["blocks.2.mlp.w_in"].T}
    with pytest.raises(CorruptArtifactError, match=r"'blocks\.2\.mlp\.w_in' has shape"):
        model_from_document(Document(document.content, arrays))


def test_the_digest_is_sha256_over_sorted_names_shapes_and_bytes() -> None:
    tensors = {"b": torch.tensor([[1.0, 2.0, 3.0]]), "a": torch.tensor([4.0])}
    expected = hashlib.sha256(b"a [1]\n" + struct.pack("<f", 4) + b"b [1, 3]\n" + struct.pack("<3f", 1, 2, 3))
    assert weight_digest(tensors) == expected.hexdigest()


def test_the_digest_depends_on_values_and_shapes_and_not_on_memory_layout() -> None:
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    digest = weight_digest({"w": weight})
    assert weight_digest({"w": weight.T.contiguous().T}) == digest
    assert weight_digest({"w": weight.reshape(5, 3)}) != digest
    assert weight_digest({"v": weight}) != digest
    weight[1, 2] += 1e-6
    assert weight_digest({"w": weight}) != digest


def test_the_file_holds_plain_named_tensors_that_others_can_read(model, tmp_path) -> None:
    save_model(model, tmp_path / "m.safetensors", {})
    assert load_file(tmp_path / "m.safetensors").keys() == named_tensors(model).keys()
    assert json.dumps(model_to_document(model).content)
