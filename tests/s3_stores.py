"""Stores in fresh buckets of a server that a test was given."""

import io
import secrets
from typing import Any
from urllib.parse import urlsplit

from minio import Minio
from minio.credentials.providers import StaticProvider

from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.s3 import S3Store
from hagd.artifacts.s3_client import S3Settings
from servers.found import S3Address


def new_settings(server: S3Address, **changes: Any) -> S3Settings:
    """Name a bucket that nobody else uses."""
    return S3Settings(server.endpoint, f"test-{secrets.token_hex(8)}", **{"prefix": "some/folder", **changes})


def keys(server: S3Address) -> StaticProvider:
    return StaticProvider(server.access_key, server.secret_key)


def new_s3_store(server: S3Address, *, probe: bool = False, **changes: Any) -> S3Store:
    """Open a store in a bucket of its own."""
    settings = new_settings(server, **changes)
    Minio(urlsplit(server.endpoint).netloc, secure=False, credentials=keys(server)).make_bucket(settings.bucket)
    return S3Store(settings, keys(server), probe=probe)


def overwrite(store: S3Store, ref: ArtifactRef, data: bytes) -> None:
    """Put other bytes where a blob lies, behind the back of the store."""
    settings = store._connection.settings
    client: Minio = store._client
    name = f"{settings.prefix}/blobs/{ref.sha256[:2]}/{ref.sha256[2:]}"
    client.put_object(settings.bucket, name, io.BytesIO(data), len(data))
