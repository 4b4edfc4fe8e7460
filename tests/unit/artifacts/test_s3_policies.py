"""The policy of a stage as text; what a server makes of it stands in the integration tests."""

import json
from pathlib import Path
from typing import Any

import pytest

from hagd.artifacts.s3 import S3Store
from hagd.artifacts.s3_client import EnvironmentCredentials, S3Settings
from hagd.artifacts.s3_policies import stage_policy
from hagd.cli.app import run
from hagd.errors import InvalidInputError


def actions(policy: dict[str, Any], place: str) -> set[str]:
    """Give what a policy says of the objects of exactly this resource."""
    found = [set(it["Action"]) for it in policy["Statement"] if f"arn:aws:s3:::{place}" in it["Resource"]]
    return set().union(*found)


def test_a_policy_allows_its_stages_their_own_marks_and_no_removal_of_results() -> None:
    policy = stage_policy(["subject", "transcoder"], "hagd", "blue")

    assert actions(policy, "hagd/blue/objects/manifests/*") == {
        "s3:GetObject",
        "s3:PutObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
    }
    assert "s3:DeleteObject" in actions(policy, "hagd/blue/objects/checkpoints/*")
    assert "s3:PutObject" in actions(policy, "hagd/blue/objects/runs/*/g????/??-transcoder.done")
    places = [place for it in policy["Statement"] for place in it["Resource"]]
    assert all(place.startswith("arn:aws:s3:::hagd/blue/") for place in places if place != "arn:aws:s3:::hagd")
    assert not any("coarsening" in place for place in places)
    assert all(it["Effect"] == "Allow" and "*" not in "".join(it["Action"]) for it in policy["Statement"])


@pytest.mark.parametrize(
    ("stages", "bucket", "prefix"),
    [
        ([], "b", ""),
        (["*"], "b", ""),
        (["a"], "", ""),
        (["a"], "b*", ""),
        (["a"], "b", "?"),
        (["${aws:username}"], "b", ""),
    ],
)
def test_names_that_would_widen_a_policy_are_refused(stages: list[str], bucket: str, prefix: str) -> None:
    with pytest.raises(InvalidInputError, match="no policy"):
        stage_policy(stages, bucket, prefix)


def test_the_command_prints_a_policy_for_every_service(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["admin", "policies", "--bucket", "hagd"]) == 0
    told = json.loads(capsys.readouterr().out)["data"]
    assert list(told) == ["hagd-transcoder", "hagd-coarsening", "hagd-traversal", "hagd-verification"]
    assert told["hagd-traversal"] == stage_policy(["traversal"], "hagd")
    assert run(["admin", "policies", "--bucket", "hagd", "--principal", "x=", "--json"]) == 2


def test_no_key_is_in_what_is_printed_of_settings(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the-secret-key")
    provider = EnvironmentCredentials({"HAGD_S3_ACCESS_KEY": "me", "HAGD_S3_SECRET_KEY_FILE": str(tmp_path / "secret")})
    settings = S3Settings.from_location("s3:http://127.0.0.1:1/bucket")
    store = S3Store(settings, provider, probe=False)

    assert "the-secret-key" not in f"{settings!r} {provider!r} {store!r} {store.location} {store._connection!r}"
    with pytest.raises(InvalidInputError):
        S3Settings.from_location("s3:http://me:the-secret-key@127.0.0.1:1/bucket")
