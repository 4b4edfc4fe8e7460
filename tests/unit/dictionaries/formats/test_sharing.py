"""Dictionaries from a hub on loopback and to it, by the real library."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from hagd.dictionaries.formats import circuit_tracer, hugging_face
from hagd.dictionaries.formats.card import Belongings
from hagd.dictionaries.formats.files import LARGEST_CONFIG_BYTES
from hagd.dictionaries.formats.registry import FORMATS, read_folder
from hagd.dictionaries.formats.sharing import MOST_FILES, dictionaries_at, pull, push
from hagd.errors import (
    HagdError,
    InvalidInputError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnknownNameError,
)
from hagd.hub.names import Source, parse_source
from hub_server import READ, WRITE, Hub, altered
from unit.dictionaries.formats.layouts import by_layer, read_one, save, weights

# The library hands files to its transport in a way that this one is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPOSITORY = "models/owner/name"
SOURCE = Source("owner/name")


def files_below(folder: Path) -> dict[str, bytes]:
    return {it.relative_to(folder).as_posix(): it.read_bytes() for it in sorted(folder.rglob("*")) if it.is_file()}


def write_saelens(folder: Path, layer: int) -> None:
    w = weights(layer)
    save(folder / "sae_weights.safetensors", W_enc=w.w_enc, b_enc=w.b_enc, W_dec=w.w_dec, b_dec=w.b_dec)
    hooks = {"hook_name": f"blocks.{layer}.mlp.hook_in", "hook_name_out": f"blocks.{layer}.hook_mlp_out"}
    (folder / "cfg.json").write_text(json.dumps({"architecture": "transcoder", "model_name": "gpt2", **hooks}))


def write_gemma_scope(folder: Path, seed: int) -> None:
    import numpy as np  # noqa: PLC0415

    w = weights(seed)
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", W_enc=w.w_enc, b_enc=w.b_enc, W_dec=w.w_dec, b_dec=w.b_dec, threshold=w.threshold)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """Write two layers as we do for the hub."""
    write_saelens(tmp_path / "saelens" / "layer_0", 0)
    write_saelens(tmp_path / "saelens" / "layer_1", 1)
    dictionaries = by_layer(read_folder(tmp_path / "saelens"))
    folder = tmp_path / "ours"
    folder.mkdir()
    hugging_face.write(dictionaries, folder, Belongings("openai-community/gpt2", None, "0" * 64, "saelens"), {})
    return folder


@pytest.fixture
def traced(tmp_path: Path, ours: Path) -> Path:
    folder = tmp_path / "traced"
    folder.mkdir()
    circuit_tracer.write(by_layer(read_folder(ours)), folder, "openai-community/gpt2")
    return folder


@pytest.fixture
def may_write(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_TOKEN", WRITE)
    yield


# Pulling


def test_the_files_of_the_format_and_the_card_come_and_nothing_else(hub: Hub, traced: Path, tmp_path: Path) -> None:
    kept = files_below(traced) | {"README.md": b"a card"}
    aside = {"train.py": b"import os", "features/0.json": b"[1]", "sae.pt": b"pickle", "big.parquet": b"x" * 999}
    commit = hub.add(REPOSITORY, kept | aside)

    done = pull(SOURCE, tmp_path / "out")

    assert (done.commit, done.format, done.n_files) == (commit, "circuit-tracer", len(kept))
    assert done.size_bytes == sum(map(len, kept.values()))
    got = files_below(tmp_path / "out")
    record = json.loads(got.pop("hub.json"))
    assert got == kept
    assert (record["repository"], record["commit"], record["format"]) == ("owner/name", commit, "circuit-tracer")
    assert set(record["files"]) == set(kept)
    assert not [path for path in hub.fetched() if any(name in path for name in aside)]
    found = read_folder(tmp_path / "out")
    assert found.origin == f"owner/name at {commit}"
    assert torch.equal(by_layer(found)[1].w_enc, by_layer(read_folder(traced))[1].w_enc)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_names_its_files(name: str) -> None:
    assert FORMATS[name].files
    assert not any(
        FORMATS[name].has(it) for it in ("README.md", "train.py", "weights.pt", "hub.json", "tokenizer.json")
    )


def test_a_folder_of_a_repository_is_pulled_under_its_names(hub: Hub, tmp_path: Path) -> None:
    release = tmp_path / "gemma-scope-2b-pt-transcoders"
    write_gemma_scope(release / "layer_3" / "width_16k", 3)
    write_gemma_scope(release / "layer_3" / "width_65k", 4)
    hub.add("models/google/gemma-scope-2b-pt-transcoders", files_below(release) | {"README.md": b"a release"})

    with pytest.raises(InvalidInputError, match="layer 3 twice"):
        read_folder(pull(Source("google/gemma-scope-2b-pt-transcoders"), tmp_path / "all").folder)
    done = pull(parse_source("google/gemma-scope-2b-pt-transcoders/layer_3/width_16k"), tmp_path / "one")

    assert set(files_below(tmp_path / "one")) == {
        "README.md",
        "layer_3/width_16k/params.npz",
        "layer_3/width_16k/hub.json",
    }
    assert done.folder == tmp_path / "one" / "layer_3" / "width_16k"
    assert torch.equal(read_one(done.folder).w_enc, torch.from_numpy(weights(3).w_enc))


def test_settings_above_a_folder_come_with_it(hub: Hub, tmp_path: Path) -> None:
    w = weights(0)
    layer = tmp_path / "layers.0.mlp"
    save(
        layer / "sae.safetensors",
        **{"encoder.weight": w.w_enc.T, "encoder.bias": w.b_enc, "W_dec": w.w_dec},
        b_dec=w.b_dec,
    )
    (layer / "cfg.json").write_text(json.dumps({"transcode": True, "k": 3}))
    above = {"config.json": json.dumps({"model": "EleutherAI/pythia-70m"}).encode()}
    other = {"layers.1.mlp/cfg.json": b"{}", "layers.1.mlp/sae.safetensors": b"other", "sae.safetensors": b"above"}
    hub.add(REPOSITORY, {f"layers.0.mlp/{name}": it for name, it in files_below(layer).items()} | above | other)

    done = pull(parse_source("owner/name/layers.0.mlp"), tmp_path / "out")

    assert set(files_below(tmp_path / "out")) == {
        "config.json",
        "layers.0.mlp/cfg.json",
        "layers.0.mlp/hub.json",
        "layers.0.mlp/sae.safetensors",
    }
    assert read_folder(done.folder).base_model == "EleutherAI/pythia-70m"


def test_a_branch_is_resolved_and_an_older_commit_is_there_still(hub: Hub, ours: Path, tmp_path: Path) -> None:
    first = hub.add(REPOSITORY, files_below(ours))
    second = hub.repositories[REPOSITORY].commit({"README.md": b"another card"}, "main")

    assert pull(SOURCE, tmp_path / "new").commit == second
    assert pull(Source("owner/name", "", first), tmp_path / "old").commit == first
    assert (tmp_path / "new" / "README.md").read_bytes() == b"another card"
    assert (tmp_path / "old" / "README.md").read_bytes() == (ours / "README.md").read_bytes()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"model.safetensors": b"x" * 99, "config.json": b'{"model_type": "gpt2"}'}, "of none of the formats"),
        ({"weights.ckpt": b"x" * 99, "README.md": b"card"}, r"it holds pickles \(weights.ckpt\)"),
        (
            {"config.yaml": b"model_kind: transcoder_set\n", "layer_0.pt": b"x" * 99},
            "has layer_0.pt and no layer_0.saf",
        ),
        (
            {"l0/cfg.json": b'{"architecture": "relu"}', "l0/sae_weights.pkl": b"x" * 99},
            "has l0/sae_weights.pkl and no",
        ),
        ({"config.yaml": b"a: &a [1]\nb: *a\n", "layer_0.safetensors": b"x" * 99}, "is not YAML"),
        ({"config.yaml": b"#" * (LARGEST_CONFIG_BYTES + 1), "layer_0.safetensors": b"x" * 99}, "more than any config"),
        ({f"layer_{it}/params.npz": b"x" for it in range(MOST_FILES + 1)}, "name a folder of it"),
        ({"a/cfg.json": b"{}", "a/cfg.json/cfg.json": b"{}", "a/sae.safetensors": b"x" * 99}, "cache cannot be used"),
    ],
)
def test_what_is_of_no_format_is_refused_before_its_weights_are_fetched(
    files: dict[str, bytes], words: str, hub: Hub, tmp_path: Path
) -> None:
    hub.add(REPOSITORY, files)

    with pytest.raises(InvalidInputError) as caught:
        pull(SOURCE, tmp_path / "out")

    assert words.replace("\\", "") in f"{caught.value.message} {caught.value.hint}"
    assert not [path for path in hub.fetched() if not path.endswith((".json", ".yaml"))]
    assert not list(tmp_path.iterdir())


def test_a_pickle_is_neither_fetched_nor_opened_where_safetensors_are_there(
    hub: Hub, traced: Path, tmp_path: Path
) -> None:
    hub.add(REPOSITORY, files_below(traced) | {"layer_0.pt": b"a pickle"})

    pull(SOURCE, tmp_path / "out")

    assert not list((tmp_path / "out").rglob("*.pt"))
    assert not [path for path in hub.fetched() if path.endswith(".pt")]


def test_a_named_format_is_held_to_its_files(hub: Hub, traced: Path, tmp_path: Path) -> None:
    hub.add(REPOSITORY, files_below(traced))

    with pytest.raises(InvalidInputError, match="is not of the format saelens"):
        pull(SOURCE, tmp_path / "out", "saelens")
    with pytest.raises(UnknownNameError, match="no format 'saelenz'"):
        pull(SOURCE, tmp_path / "out", "saelenz")
    assert pull(SOURCE, tmp_path / "out", "circuit-tracer").format == "circuit-tracer"


def test_a_repository_that_is_too_large_is_refused_by_its_listing(hub: Hub, traced: Path, tmp_path: Path) -> None:
    hub.add(REPOSITORY, files_below(traced))
    size = sum(map(len, files_below(traced).values()))

    with pytest.raises(InvalidInputError, match="GiB of files, more than"):
        pull(SOURCE, tmp_path / "out", most_bytes=size - 1)
    assert not [path for path in hub.fetched() if path.endswith(".safetensors")]
    assert pull(SOURCE, tmp_path / "out", most_bytes=size).size_bytes == size


def test_a_pull_that_fails_leaves_no_folder_and_the_next_one_fetches_the_rest(
    hub: Hub, traced: Path, tmp_path: Path
) -> None:
    hub.add(REPOSITORY, files_below(traced))
    hub.sends = lambda name, content: altered(content) if name == "layer_1.safetensors" else content
    with pytest.raises(InvalidInputError, match=r"layer_1\.safetensors of .* is not what the hub lists"):
        pull(SOURCE, tmp_path / "out")
    assert not (tmp_path / "out").exists()

    hub.requests.clear()
    hub.sends = lambda _, content: content
    pull(SOURCE, tmp_path / "out")
    assert [path.rpartition("/")[2] for path in hub.fetched()] == ["layer_1.safetensors"]
    assert {it.name for it in tmp_path.iterdir()} >= {"out"} and not list(tmp_path.glob(".partial-*"))


def test_a_folder_with_something_in_it_is_not_written_over(hub: Hub, traced: Path) -> None:
    hub.add(REPOSITORY, files_below(traced))
    with pytest.raises(InvalidInputError, match="is there already"):
        pull(SOURCE, traced)
    assert hub.requests == []


def test_a_record_that_somebody_else_wrote_is_refused(ours: Path) -> None:
    (ours / "hub.json").write_text(json.dumps({"schema": "hagd.hub/v1", "commit": "main", "repository": "a/b"}))
    with pytest.raises(InvalidInputError, match="is no record of a pull"):
        read_folder(ours)


# In place of a folder


def test_a_repository_stands_in_place_of_a_folder_and_is_fetched_once(
    hub: Hub, traced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add(REPOSITORY, files_below(traced))

    folder = dictionaries_at("hub:owner/name")
    asked = len(hub.fetched())
    assert folder.name == "name" and read_folder(folder).origin == f"owner/name at {commit}"
    assert dictionaries_at("hub:owner/name@main") == folder
    assert len(hub.fetched()) == asked

    shutil.rmtree(constants.HF_HUB_CACHE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert dictionaries_at(f"hub:owner/name@{commit}") == folder
    assert read_folder(folder).n_layers == 2
    with pytest.raises(UnavailableError):
        dictionaries_at("hub:owner/name")


def test_what_is_no_repository_is_a_folder() -> None:
    assert dictionaries_at("some/folder") == Path("some/folder")
    assert dictionaries_at("./hub:owner/name") == Path("hub:owner/name")


def test_folders_of_one_repository_are_kept_apart(hub: Hub, traced: Path, ours: Path) -> None:
    files = {f"{part}/{name}": it for part in ("a", "b") for name, it in files_below(traced).items()}
    hub.add(REPOSITORY, files | {f"c/{name}": it for name, it in files_below(ours).items()})

    a, c = dictionaries_at("hub:owner/name/a"), dictionaries_at("hub:owner/name/c")

    assert (read_folder(a).source_format, read_folder(c).source_format) == ("circuit-tracer", "hf")
    assert not (a.parent / "b").exists() and not (a.parent / "c").exists()


# Pushing


@pytest.mark.usefixtures("may_write")
def test_what_is_pushed_is_pulled_byte_for_byte(hub: Hub, ours: Path, tmp_path: Path) -> None:
    (ours / "notes.txt").write_text("mine")
    (ours / ".env").write_text("secret")

    done = push(ours, SOURCE, message="first")

    held = hub.repositories[REPOSITORY].commits[done.commit]
    assert set(held) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert (done.format, done.files) == ("hf", ("README.md", "config.json", "model.safetensors"))
    assert done.url.endswith(f"/owner/name/commit/{done.commit}")
    pull(SOURCE, tmp_path / "back")
    got = files_below(tmp_path / "back")
    assert {name: got[name] for name in done.files} == {name: files_below(ours)[name] for name in done.files}


@pytest.mark.usefixtures("may_write")
def test_a_branch_is_made_and_main_stays_as_it_is(hub: Hub, ours: Path) -> None:
    done = push(ours, Source("owner/name", "", "wide"), private=True)

    found = hub.repositories[REPOSITORY]
    assert found.private and found.branches["wide"] == done.commit
    assert set(found.commits[found.branches["main"]]) == {".gitattributes"}
    # The same again is no other commit's worth of uploads.
    hub.requests.clear()
    push(ours, Source("owner/name", "", "wide"), private=True)
    assert not [path for method, path, _ in hub.requests if method == "PUT"]


@pytest.mark.usefixtures("may_write")
def test_a_folder_without_a_card_or_damaged_is_not_pushed(hub: Hub, ours: Path, traced: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"has no README\.md, the model card"):
        push(traced, SOURCE)
    damaged = bytearray((ours / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (ours / "model.safetensors").write_bytes(damaged)
    with pytest.raises(InvalidInputError, match="does not match its digest"):
        push(ours, SOURCE)
    with pytest.raises(InvalidInputError, match="names a folder"):
        push(ours, parse_source("owner/name/inner"))
    assert hub.requests == []


@pytest.mark.usefixtures("may_write")
def test_files_that_would_be_read_together_with_others_are_not_pushed(hub: Hub, traced: Path) -> None:
    (traced / "README.md").write_text("a card")
    commit = hub.add(REPOSITORY, {"layer_7.safetensors": b"of another set", ".gitattributes": b""})

    with pytest.raises(InvalidInputError, match=r"has layer_7\.safetensors, which would be read together"):
        push(traced, SOURCE)
    assert hub.repositories[REPOSITORY].branches == {"main": commit}


@pytest.mark.usefixtures("may_write")
def test_nothing_private_is_pushed_to_what_is_public(hub: Hub, ours: Path) -> None:
    commit = hub.add(REPOSITORY, {".gitattributes": b""})

    with pytest.raises(InvalidInputError, match="is there already and public"):
        push(ours, SOURCE, private=True)
    assert hub.repositories[REPOSITORY].branches == {"main": commit}


@pytest.mark.usefixtures("may_write")
def test_a_file_that_the_hub_left_out_is_told(hub: Hub, ours: Path) -> None:
    hub.add(REPOSITORY, {".gitattributes": b""}, ignored={"model.safetensors"})

    with pytest.raises(UnavailableError, match=r"model\.safetensors did not arrive .* it is not there") as caught:
        push(ours, SOURCE)
    assert ".gitignore" in caught.value.hint


@pytest.mark.usefixtures("may_write")
def test_a_commit_of_somebody_else_in_between_is_not_overwritten(
    hub: Hub, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPOSITORY, {".gitattributes": b""})

    def told(files: list[dict[str, object]]) -> list[dict[str, object]]:
        hub.repositories[REPOSITORY].commit({"NOTES.md": b"theirs"})
        return files

    hub.lists = told
    with pytest.raises(UnavailableError, match="somebody else changed"):
        push(ours, SOURCE)


@pytest.mark.parametrize(
    ("token", "error", "words"),
    [
        (None, UnauthenticatedError, "there is no token"),
        ("hf_wrongandsecret", UnauthenticatedError, "does not take the token"),
        (READ, PermissionDeniedError, "You have no right"),
    ],
)
def test_who_may_not_write_is_told_and_no_token_is_shown(
    token: str | None,
    error: type[HagdError],
    words: str,
    hub: Hub,
    ours: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)

    with pytest.raises(error, match=words) as caught:
        push(ours, SOURCE)

    shown = f"{caught.value.message} {caught.value.hint} {''.join(capfd.readouterr())}"
    assert token is None or token not in shown
    assert hub.repositories == {}
