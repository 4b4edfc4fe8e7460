"""Services with policies of their own on a real MinIO: each does its work and nothing else, and may change its keys."""

import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider

from hagd.artifacts.manifests import Manifest, publish_manifest
from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.s3 import S3Store
from hagd.artifacts.s3_client import EnvironmentCredentials, S3Settings
from hagd.artifacts.s3_policies import stage_policy
from hagd.errors import UnavailableError
from s3_stores import keys
from servers.found import S3Address

pytestmark = [pytest.mark.s3, pytest.mark.servers, pytest.mark.xdist_group("s3")]

KEY = "ab" * 32
RUN = f"runs/{KEY}"


class Users:
    """Users of a MinIO, each with a policy of its own, over one bucket."""

    def __init__(self, server: S3Address) -> None:
        netloc = urlsplit(server.endpoint).netloc
        self._admin = MinioAdmin(endpoint=netloc, credentials=keys(server), secure=False)
        self.settings = S3Settings(server.endpoint, f"test-{secrets.token_hex(8)}", "blue", tries=1)
        Minio(netloc, secure=False, credentials=keys(server)).make_bucket(self.settings.bucket)
        self.root = S3Store(self.settings, keys(server), probe=False)

    def add(self, *stages: str) -> tuple[str, str]:
        """Give the keys of a user that works off some stages."""
        name, key = f"user-{secrets.token_hex(6)}", secrets.token_hex(16)
        self._admin.policy_add(name, policy=stage_policy(stages, self.settings.bucket, "blue"))
        self._admin.user_add(name, key)
        self._admin.attach_policy([name], user=name)
        return name, key

    def remove(self, name: str) -> None:
        self._admin.user_remove(name)

    def store(self, *stages: str) -> S3Store:
        return S3Store(self.settings, StaticProvider(*self.add(*stages)), create=False)


@pytest.fixture
def users(minio: S3Address) -> Users:
    return Users(minio)


def refused(action: Callable[[], Any]) -> None:
    with pytest.raises(UnavailableError, match="AccessDenied") as caught:
        action()
    assert "what they may do" in caught.value.hint


def test_a_stage_does_everything_that_its_loop_does(users: Users) -> None:
    store = users.store("traversal")
    small, large = store.put_blob(b"x", "text/plain"), store.put_blob(lambda: [b"y" * (9 << 20)], "text/plain")
    assert store.get_blob(small) == b"x"
    assert store.check_blob(large)
    assert publish_manifest(store, Manifest(KEY, "traversal", {"circuit": small})).outputs == {"circuit": small}
    etag = store.put_if_absent(f"leases/ab/{KEY}", b"1")
    assert etag is not None
    assert store.replace(f"leases/ab/{KEY}", b"2", etag) is not None
    store.put_if_absent(f"checkpoints/ab/{KEY}/000001/1", b"{}")
    store.delete(f"checkpoints/ab/{KEY}/000001/1")
    store.delete_blob(large)
    for name in ("request", "g0000/opened", "g0000/cancel", "g0000/outcome", "g0000/03-traversal.shards"):
        assert store.put_if_absent(f"{RUN}/{name}", b"{}") is not None
    assert len(store.list("runs/")) == 5
    store.put_if_absent(f"active/me/{KEY}", b"{}")
    store.delete(f"active/me/{KEY}")
    assert store.read("control/traversal/paused") is None
    assert store.read(f"{RUN}/g0000/02-coarsening.done") is None


def test_a_stage_does_not_write_the_marks_of_another_or_anything_else(users: Users) -> None:
    store = users.store("traversal")
    for key in (
        f"{RUN}/g0000/02-coarsening.done",
        f"{RUN}/g0000/02-coarsening.started",
        f"{RUN}/g0000/anything",
        "collected",
        "control/traversal/paused",
        "elsewhere/x",
    ):
        refused(lambda key=key: store.put_if_absent(key, b"{}"))
        assert users.root.read(key) is None


def test_a_stage_removes_no_result_and_no_run(users: Users) -> None:
    store, root = users.store("traversal"), users.root
    for key in (f"manifests/ab/{KEY}/0000", f"{RUN}/request", f"leases/ab/{KEY}"):
        root.put_if_absent(key, b"{}")
        refused(lambda key=key: store.delete(key))
        assert root.read(key) is not None


def test_a_stage_reaches_no_other_folder_or_bucket(users: Users, minio: S3Address) -> None:
    name, key = users.add("traversal")
    bucket = users.settings.bucket
    for settings in (
        S3Settings(minio.endpoint, bucket, "green"),
        S3Settings(minio.endpoint, "other-bucket", "blue"),
    ):
        other = S3Store(settings, StaticProvider(name, key), probe=False)
        refused(lambda other=other: other.put_blob(b"x", "text/plain"))
        refused(lambda other=other: other.read(f"{RUN}/request"))
    with pytest.raises(UnavailableError, match="AccessDenied"):
        S3Store(S3Settings(minio.endpoint, "new-bucket"), StaticProvider(name, key))


def test_wrong_keys_are_refused_and_not_repeated(users: Users) -> None:
    name, key = users.add("traversal")
    wrong = secrets.token_hex(16)
    for provider in (StaticProvider(name, wrong), StaticProvider("nobody", key)):
        store = S3Store(users.settings, provider, probe=False)
        for action in (
            lambda store=store: store.read("runs/x"),
            lambda store=store: store.put_if_absent("runs/x", b""),
        ):
            with pytest.raises(UnavailableError) as caught:
                action()
            assert wrong not in f"{caught.value.message} {caught.value.hint} {caught.value!r}"
            assert key not in f"{caught.value.message} {caught.value.hint}"


def test_keys_are_replaced_under_load_and_no_call_fails(users: Users, tmp_path: Path) -> None:
    """Both keys lie in a folder that a link names; the link is exchanged, and then the old user goes."""
    link = tmp_path / "current"
    first, second = users.add("traversal"), users.add("traversal")
    for number, pair in enumerate((first, second)):
        folder = tmp_path / f"v{number}"
        folder.mkdir()
        for name, value in zip(("access", "secret"), pair, strict=True):
            (folder / name).write_text(value)
    link.symlink_to("v0")
    files = {"HAGD_S3_ACCESS_KEY_FILE": str(link / "access"), "HAGD_S3_SECRET_KEY_FILE": str(link / "secret")}
    store = S3Store(users.settings, EnvironmentCredentials(files), create=False)
    written, failed = list[ArtifactRef](), list[Exception]()
    stop, progress = threading.Event(), threading.Condition()

    def write_on(name: str) -> None:
        while not stop.is_set():
            try:
                ref = store.put_blob(secrets.token_bytes(99), "application/octet-stream")
                assert store.put_if_absent(f"leases/{name}/{ref.sha256}", b"{}") is not None
            except Exception as error:
                failed.append(error)
            with progress:
                written.append(ref)
                progress.notify_all()

    def more(count: int) -> None:
        with progress:
            goal = len(written) + count
            assert progress.wait_for(lambda: failed or len(written) >= goal, 60)

    threads = [threading.Thread(target=write_on, args=(f"{number}0",)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        more(20)
        (tmp_path / "next").symlink_to("v1")
        (tmp_path / "next").replace(link)
        more(20)
        users.remove(first[0])
        more(20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert all(users.root.check_blob(ref) for ref in written)
    with pytest.raises(UnavailableError):
        S3Store(users.settings, StaticProvider(*first), create=False)
