"""Names of the hub, before anything is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd.errors import InvalidInputError, UnknownNameError
from hagd.hub.names import Source, below, check_path, is_commit, is_hub, parse_source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", Source("owner/name")),
        ("hub:owner/na.me-2", Source("owner/na.me-2")),
        ("hub:owner/name/layer_3/width_16k", Source("owner/name", "layer_3/width_16k")),
        ("owner/name@v1.0", Source("owner/name", "", "v1.0")),
        ("owner/name/a@refs/pr/7", Source("owner/name", "a", "refs/pr/7")),
        ("owner/name/", Source("owner/name")),
    ],
)
def test_a_repository_a_folder_of_it_and_a_revision_are_told_apart(text: str, expected: Source) -> None:
    assert parse_source(text) == expected
    assert parse_source(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "hub:",
        "/etc/passwd",
        "../away/name",
        "owner/..",
        "owner/na--me",
        "owner/name/../..",
        "owner/name/a//b",
        "owner/name@",
        "owner/name@../../x",
        "owner/name@-f",
        "ow ner/name",
        "owner/name\n",
        "https://somewhere/owner/name",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(UnknownNameError):
        parse_source(text)


def test_a_revision_is_given_once() -> None:
    assert parse_source("owner/name", "v1").revision == "v1"
    with pytest.raises(UnknownNameError, match="both give a revision"):
        parse_source("owner/name@v1", "v2")


def test_only_the_prefix_makes_a_repository_of_a_text() -> None:
    assert is_hub("hub:owner/name")
    assert not is_hub("owner/name") and not is_hub("./hub:owner/name")


def test_only_forty_hexadecimal_digits_are_a_commit() -> None:
    assert is_commit("0123456789abcdef" * 2 + "01234567")
    assert not is_commit("main") and not is_commit(None) and not is_commit("0" * 39) and not is_commit("../" + "0" * 37)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/x",
        "a/../x",
        "a//b",
        "./a",
        "a\\..\\x",
        "a\0b",
        "a\nb",
        "",
        "a/",
        "x" * 256,
        "a/" * 600 + "b",
        "\ud800",
    ],
)
def test_names_that_lead_elsewhere_or_fit_nowhere_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError):
        check_path(name)


@given(st.text(st.sampled_from("ab./\\\0"), max_size=12))
def test_a_name_that_passes_stays_below_its_folder(name: str) -> None:
    try:
        check_path(name)
    except InvalidInputError:
        return
    assert below(f"folder/{name}", "folder") == name
    assert not name.startswith("/") and ".." not in name.split("/") and "\0" not in name


def test_a_name_is_seen_from_a_folder_and_not_from_one_whose_name_begins_alike() -> None:
    assert below("a/b/c.json", "a/b") == "c.json"
    assert below("a/b/c.json", "") == "a/b/c.json"
    assert below("a/bc/c.json", "a/b") is None
