"""Files as they are listed and no others, by the real library from a hub on loopback."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from hagd.errors import (
    InvalidInputError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnknownNameError,
)
from hagd.hub.download import Listing, fetch, list_files, place
from hagd.hub.names import Source
from hub_server import READ, WRITE, Hub, altered

WEIGHTS, CONFIG = bytes(range(251)) * 97, b'{"a": 1}'
FILES = {"config.json": CONFIG, "w.safetensors": WEIGHTS, "inner/deep/w.npz": WEIGHTS[:89], "inner/config.json": b"{}"}
REPOSITORY = "models/owner/name"


def listing_of(text: str = "owner/name", revision: str | None = None) -> Listing:
    return list_files(Source(text, "", revision), "model")


def test_a_listing_has_sizes_and_digests_at_a_commit(hub: Hub) -> None:
    commit = hub.add(REPOSITORY, FILES)

    listing = listing_of()

    assert listing.commit == commit
    assert {name: it.size_bytes for name, it in listing.files.items()} == {name: len(it) for name, it in FILES.items()}
    assert listing.files["w.safetensors"].digest == hashlib.sha256(WEIGHTS).hexdigest()
    # What git says of the same bytes: printf '{"a": 1}' | git hash-object --stdin
    assert listing.files["config.json"].digest == "4a036f56bb619924ec4189bd84ed716c766971ae"


def test_a_folder_is_listed_with_what_lies_above_it(hub: Hub) -> None:
    hub.add(REPOSITORY, {**FILES, "other/w.npz": b"x"})

    assert set(list_files(Source("owner/name", "inner/deep"), "model").files) == {
        "config.json",
        "w.safetensors",
        "inner/config.json",
        "inner/deep/w.npz",
    }
    with pytest.raises(UnknownNameError, match="has no folder 'inn'"):
        list_files(Source("owner/name", "inn"), "model")


def test_files_come_as_they_are_and_once(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPOSITORY, FILES)

    place(fetch(listing_of(), FILES), tmp_path / "a")
    asked = len(hub.fetched())
    place(fetch(listing_of(), FILES), tmp_path / "b", linked=True)

    assert asked == len(FILES) == len(hub.fetched())
    for name, content in FILES.items():
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() == content
        assert not (tmp_path / "a" / name).is_symlink()


def test_a_revision_is_read_as_it_was_although_the_branch_moves(hub: Hub) -> None:
    first = hub.add(REPOSITORY, FILES)
    second = hub.repositories[REPOSITORY].commit({"config.json": b"{}"})

    assert listing_of().commit == second != first
    path = fetch(listing_of(revision=first), ["config.json"])["config.json"]
    assert path.read_bytes() == CONFIG


def test_a_connection_that_breaks_goes_on_where_it_broke(hub: Hub) -> None:
    hub.add(REPOSITORY, FILES)
    hub.breaks["w.safetensors"] = 3

    assert fetch(listing_of(), ["w.safetensors"])["w.safetensors"].read_bytes() == WEIGHTS
    assert hub.breaks["w.safetensors"] == 0


def test_a_file_that_always_breaks_off_is_told_as_such_and_not_kept(hub: Hub) -> None:
    hub.add(REPOSITORY, {"w.safetensors": WEIGHTS[:3]})
    hub.breaks["w.safetensors"] = 99

    with pytest.raises(UnavailableError, match=r"w\.safetensors of model 'owner/name'"):
        fetch(listing_of(), ["w.safetensors"])
    kept = [it for it in Path(constants.HF_HUB_CACHE).rglob("*") if it.is_file() and it.stat().st_size]
    assert [it.name for it in kept if it.name != "CACHEDIR.TAG"] == []


@pytest.mark.parametrize("name", ["w.safetensors", "config.json"])
def test_bytes_that_are_not_those_listed_are_refused(hub: Hub, name: str) -> None:
    hub.add(REPOSITORY, FILES)
    hub.sends = lambda _, content: altered(content)

    with pytest.raises(InvalidInputError, match=rf"{name} of .* is not what the hub lists: digest"):
        fetch(listing_of(), [name])


def test_a_copy_that_was_damaged_in_the_cache_is_fetched_anew(hub: Hub) -> None:
    hub.add(REPOSITORY, FILES)
    cached = fetch(listing_of(), ["w.safetensors"])["w.safetensors"]
    cached.resolve().write_bytes(altered(WEIGHTS))

    assert fetch(listing_of(), ["w.safetensors"])["w.safetensors"].read_bytes() == WEIGHTS


def test_a_file_that_is_longer_than_listed_is_stopped_before_it_is_whole(hub: Hub) -> None:
    hub.add(REPOSITORY, {"w.safetensors": b"short"})
    sent = b"x" * (64 << 20)
    hub.sends = lambda *_: sent

    with pytest.raises(InvalidInputError, match="longer than the 5 bytes that the hub lists"):
        fetch(listing_of(), ["w.safetensors"])
    kept = sum(it.stat().st_size for it in Path(constants.HF_HUB_CACHE).rglob("*") if it.is_file())
    assert kept < 1 << 20


def test_a_listing_with_another_size_than_the_file_is_refused(hub: Hub) -> None:
    hub.add(REPOSITORY, FILES)
    hub.lists = lambda files: [it | {"size": it["size"] + 7} for it in files]

    with pytest.raises(InvalidInputError, match=f"{len(WEIGHTS)} bytes, listed are {len(WEIGHTS) + 7}"):
        fetch(listing_of(), ["w.safetensors"])


@pytest.mark.parametrize(
    "name", ["../../escaped.json", "/etc/escaped.json", "a/../../escaped.json", "..\\escaped.json"]
)
def test_a_listing_with_a_name_that_leads_elsewhere_is_refused_whole(hub: Hub, name: str) -> None:
    hub.add(REPOSITORY, FILES)
    hub.lists = lambda files: [*files, {"rfilename": name, "size": 2, "blobId": "0" * 40}]

    with pytest.raises(InvalidInputError, match="is no name of a file below a folder"):
        listing_of()


@pytest.mark.parametrize("missing", [{"size": None}, {"size": -1}, {"size": "5"}, {"blobId": None}, {"blobId": "../x"}])
def test_a_listing_by_which_nothing_can_be_checked_is_refused(hub: Hub, missing: dict[str, Any]) -> None:
    hub.add(REPOSITORY, {"config.json": CONFIG})
    hub.lists = lambda files: [it | missing for it in files]

    with pytest.raises(InvalidInputError, match=r"config\.json without size and digest"):
        listing_of()


def test_what_is_not_there_is_told_apart(hub: Hub) -> None:
    hub.add(REPOSITORY, FILES)

    with pytest.raises(UnknownNameError, match="there is no model 'owner/other' on the hub") as caught:
        listing_of("owner/other")
    assert "HF_TOKEN" in caught.value.hint
    with pytest.raises(UnknownNameError, match="no such revision"):
        listing_of(revision="v9")
    with pytest.raises(UnknownNameError, match="there is no dataset"):
        list_files(Source("owner/name"), "dataset")


def test_a_private_repository_takes_a_token_and_a_wrong_one_is_told(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.add(REPOSITORY, FILES, private=True)

    with pytest.raises(UnknownNameError):
        listing_of()
    monkeypatch.setenv("HF_TOKEN", "hf_wrongandsecret")
    with pytest.raises(UnauthenticatedError, match="does not take the token") as caught:
        listing_of()
    assert "hf_wrongandsecret" not in f"{caught.value.message} {caught.value.hint} {''.join(capfd.readouterr())}"
    monkeypatch.setenv("HF_TOKEN", READ)
    assert listing_of().private
    hub.requests.clear()
    fetch(listing_of(), FILES)
    assert {token for _, path, token in hub.requests if not path.startswith("/store/")} == {READ}
    assert {token for _, path, token in hub.requests if path.startswith("/store/")} == {""}


def test_a_gated_repository_says_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPOSITORY, FILES, gated=True)

    with pytest.raises(PermissionDeniedError, match="gated") as caught:
        fetch(listing_of(), ["config.json"])
    assert "agree to them on its page" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", WRITE)
    assert fetch(listing_of(), ["config.json"])["config.json"].read_bytes() == CONFIG


def test_a_hub_that_does_not_answer_and_one_that_may_not_be_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPOSITORY, FILES)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE is set"):
        listing_of()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="the hub does not answer for model 'owner/name'"):
        listing_of()


def test_what_answers_and_is_no_hub_is_told_as_such(hub: Hub) -> None:
    hub.add(REPOSITORY, FILES)
    hub.lists = lambda _: [{"name": "no listing"}]

    with pytest.raises(UnavailableError, match="is no hub") as caught:
        listing_of()
    assert "HF_ENDPOINT" in caught.value.hint
