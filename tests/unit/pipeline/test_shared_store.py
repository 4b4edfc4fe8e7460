"""Where the artifacts of a run lie: what is given goes before the environment."""

from pathlib import Path

import pytest

from hagd.errors import UsageError
from hagd.pipeline.shared_store import store_folder


@pytest.mark.parametrize(
    ("given", "variable", "folder"),
    [
        (None, None, None),
        (None, "", None),
        ("", "theirs", Path("theirs")),
        (None, "theirs", Path("theirs")),
        ("mine", "theirs", Path("mine")),
        (Path("mine"), None, Path("mine")),
        ("file:/srv/artifacts", None, Path("/srv/artifacts")),
        ("a:b", None, Path("a:b")),
    ],
)
def test_what_is_given_goes_before_the_environment(
    given: str | Path | None, variable: str | None, folder: Path | None
) -> None:
    assert store_folder(given, {} if variable is None else {"HAGD_STORE": variable}) == folder


def test_a_store_that_is_no_folder_is_refused_by_its_name() -> None:
    with pytest.raises(UsageError, match="not in s3:") as caught:
        store_folder(None, {"HAGD_STORE": "s3:http://127.0.0.1:9000/artifacts"})
    assert "HAGD_STORE" in caught.value.hint
