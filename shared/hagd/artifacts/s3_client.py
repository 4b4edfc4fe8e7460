"""The connection to an S3 server: settings, credentials, timeouts, errors of our tree, and conditional writes.

The client library has no conditional PUT, so one is sent to a presigned address with the condition as a header. A
server that does not know such headers ignores them silently, which is why `probe` tries them before anything relies
on them. Such an address is a key for minutes, so no error may tell it.
"""

import os
import secrets
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry, Timeout

from hagd.errors import HagdError, InvalidInputError, StoreFullError, UnavailableError

ABSENT: Final = frozenset({"NoSuchKey", "NoSuchObject", "ResourceNotFound"})
_FULL: Final = frozenset({"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "StorageFull"})
_REFUSED: Final = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "RequestTimeTooSkewed"}
)
_PASSING: Final = (500, 502, 503, 504)
_CONFLICTS: Final = 5
_PRESIGNED_FOR: Final = timedelta(minutes=5)
_IF_ABSENT: Final = {"If-None-Match": "*"}
_RACERS: Final = 8
_RACES: Final = 8


@dataclass(frozen=True)
class S3Settings:
    """Where the store is and how long to wait for it. Keys are no setting: they come from the environment or files."""

    endpoint: str
    """`http://host:port` or `https://host[:port]`."""
    bucket: str
    prefix: str = ""
    """Folder in the bucket, without a slash at either end; empty for the whole bucket."""
    region: str = "us-east-1"
    ca_file: Path | None = None
    """Certificates to trust for https; those of the system when None."""
    connect_timeout_seconds: float = 3.0
    read_timeout_seconds: float = 30.0
    tries: int = 4
    """How often a request is sent before the server counts as unavailable."""

    @property
    def location(self) -> str:
        """Give the address from which another process opens the same store."""
        return "s3:" + "/".join(part for part in (self.endpoint, self.bucket, self.prefix) if part)

    @staticmethod
    def from_location(location: str) -> "S3Settings":
        """Read `s3:http://host:port/bucket[/prefix]`; region and certificates come from the environment.

        Raises:
            InvalidInputError: the text is no such address.
        """
        url = urlsplit(location.removeprefix("s3:"))
        bucket, _, prefix = url.path.strip("/").partition("/")
        known = url.scheme in ("http", "https") and url.hostname and not url.username and not url.query
        if not location.startswith("s3:") or not known or not bucket:
            raise InvalidInputError(
                f"no S3 store can be opened at {location!r}", "write s3:http://host:port/bucket or .../bucket/folder"
            )
        ca_file = os.environ.get("HAGD_S3_CA_FILE")
        return S3Settings(
            f"{url.scheme}://{url.netloc}",
            bucket,
            prefix,
            os.environ.get("HAGD_S3_REGION", "us-east-1"),
            Path(ca_file) if ca_file else None,
        )


class EnvironmentCredentials(Provider):
    """Keys from HAGD_S3_ACCESS_KEY and HAGD_S3_SECRET_KEY, or from the files that the same names with _FILE name.

    Files are read again for every request, so that keys can be rotated under a running service. Both names then belong
    into one folder that is exchanged as a whole, as Kubernetes does with its secrets.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment

    def retrieve(self) -> Credentials:
        """Give the keys as they are now.

        Raises:
            UnavailableError: there are none.
        """
        pair = self._pair()
        # The folder may be exchanged between the two reads.
        while (again := self._pair()) != pair:
            pair = again
        return Credentials(*pair)

    def _pair(self) -> tuple[str, str]:
        return self._read("HAGD_S3_ACCESS_KEY"), self._read("HAGD_S3_SECRET_KEY")

    def _read(self, name: str) -> str:
        try:
            path = self._environment.get(f"{name}_FILE")
            value = Path(path).read_text(encoding="utf-8").strip() if path else self._environment.get(name, "")
        except OSError as error:
            raise UnavailableError(f"the file that {name}_FILE names cannot be read: {error}", "check it") from error
        if not value:
            raise UnavailableError(f"there is no key for the S3 store: {name} is not set", f"set it, or {name}_FILE")
        return value


class S3Connection:
    """A client of one bucket. Safe to use from several threads."""

    def __init__(self, settings: S3Settings, credentials: Provider | None = None) -> None:
        """Prepare the client; nothing is sent yet.

        Raises:
            InvalidInputError: the address is none.
        """
        self.settings, self.bucket = settings, settings.bucket
        timeout = Timeout(connect=settings.connect_timeout_seconds, read=settings.read_timeout_seconds)
        again = Retry(
            total=settings.tries - 1, backoff_factor=0.2, status_forcelist=_PASSING, raise_on_status=False, redirect=0
        )
        trusted = str(settings.ca_file) if settings.ca_file else None
        self._http = urllib3.PoolManager(4, maxsize=16, timeout=timeout, retries=again, ca_certs=trusted)
        url = urlsplit(settings.endpoint)
        try:
            self.client = Minio(
                url.netloc,
                secure=url.scheme == "https",
                region=settings.region,
                http_client=self._http,
                credentials=credentials or EnvironmentCredentials(),
            )
        except ValueError as error:
            raise InvalidInputError(f"{settings.endpoint!r} is no S3 server: {error}", "write http://host:port") from (
                error
            )

    def put_if(self, name: str, data: bytes, condition: Mapping[str, str]) -> str | None:
        """Write an object under a condition; give its etag, or None when the condition does not hold.

        Raises:
            StoreFullError: no room.
            UnavailableError: the server does not answer, and it is not known whether the object was written.
        """
        for _ in range(_CONFLICTS):
            answer = self._put_once(name, data, condition)
            if isinstance(answer, str):
                return answer
            code = _code(answer.data)
            if answer.status == 200:
                return unquoted(answer.headers["ETag"])
            if answer.status == 412 or (answer.status == 404 and code != "NoSuchBucket"):
                return None
            # 409 says that another conditional write is under way: look again.
            if answer.status != 409:
                raise self._refusal(code, "", answer.status)
        raise UnavailableError(f"too many writers of {name} in {self.settings.location}", "try again")

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Give a small object and its etag, or None when there is none.

        Raises:
            UnavailableError: the server does not answer.
        """
        with self.translated():
            try:
                answer = self.client.get_object(self.bucket, name)
            except S3Error as error:
                if error.code in ABSENT:
                    return None
                raise
            with answer:
                return answer.read(), unquoted(answer.headers["ETag"])

    def _put_once(self, name: str, data: bytes, condition: Mapping[str, str]) -> BaseHTTPResponse | str:
        """Send a conditional PUT; give the answer, or the etag when the answer got lost and the object is there."""
        # An answer that got lost must not be asked for again: the second time the condition would fail.
        once = Retry(total=None, connect=self.settings.tries - 1, read=0, status=0, other=0, backoff_factor=0.2)
        with self.translated():
            url = self.client.get_presigned_url("PUT", self.bucket, name, expires=_PRESIGNED_FOR)
        try:
            return self._http.request("PUT", url, body=data, headers=dict(condition), retries=once)
        except (HTTPError, OSError) as error:
            trouble = type(error.reason if isinstance(error, MaxRetryError) and error.reason else error).__name__
        # Outside of the handler: that error tells the signed address, and would be the context of what is raised here.
        there = self.read(name)
        if there is None or there[0] != data:
            raise self._silence(trouble)
        return there[1]

    @contextmanager
    def translated(self) -> Generator[None]:
        """Turn the errors of client and transport into those of our tree; an absent object stays an S3Error."""
        try:
            yield
        except S3Error as error:
            if error.code in ABSENT:
                raise
            raise self._refusal(error.code or "", error.message or "", error.response.status) from error
        except (MinioException, HTTPError, OSError) as error:
            raise self._silence(f"{type(error).__name__}: {error}") from error

    def open_bucket(self, *, create: bool) -> None:
        """Make sure that the bucket is there.

        Raises:
            UnavailableError: it is not and may not be made, or the server does not answer.
        """
        with self.translated():
            if self.client.bucket_exists(self.bucket):
                return
            if not create:
                raise UnavailableError(
                    f"there is no bucket {self.bucket!r} on {self.settings.endpoint}", "make it, or correct its name"
                )
            try:
                self.client.make_bucket(self.bucket, self.settings.region)
            except S3Error as error:
                # Somebody else made it at the same moment.
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    def probe(self, folder: str) -> None:
        """Try conditional writes below a folder: one after the other, then several at once.

        Some servers look at the condition and write in two steps, so that of several writers more than one wins; that
        they do is likely to show here, and not certain.

        Raises:
            InvalidInputError: the server ignores the conditions, or lets more than one writer win.
            UnavailableError, StoreFullError: it does not answer as it should.
        """
        name = f"{folder}probe-{secrets.token_hex(8)}"
        try:
            self._probe_conditions(name)
            with ThreadPoolExecutor(_RACERS) as pool:
                for race in range(_RACES):
                    self._probe_race(f"{name}-{race}", pool)
        finally:
            with self.translated():
                for it in self.client.list_objects(self.bucket, name, recursive=True):
                    self.client.remove_object(self.bucket, it.object_name or name)

    def _probe_conditions(self, name: str) -> None:
        first = self.put_if(name, b"1", _IF_ABSENT)
        second = self.put_if(name, b"2", _IF_ABSENT)
        third = self.put_if(name, b"3", {"If-Match": f'"{first}"'})
        fourth = self.put_if(name, b"4", {"If-Match": f'"{first}"'})
        if first is None or second is not None or third is None or fourth is not None:
            header = "If-None-Match" if first is None or second is not None else "If-Match"
            raise self._unfit(f"does not keep to {header} when it is written to")

    def _probe_race(self, name: str, pool: ThreadPoolExecutor) -> None:
        def race(condition: Mapping[str, str], data: bytes) -> list[str]:
            futures = [pool.submit(self.put_if, name, data + b"%d" % racer, condition) for racer in range(_RACERS)]
            return [etag for future in futures if (etag := future.result()) is not None]

        winners = race(_IF_ABSENT, b"first")
        # Other bytes than before, because equal ones have the etag that is asked for.
        if len(winners) != 1 or len(race({"If-Match": f'"{winners[0]}"'}, b"second")) > 1:
            raise self._unfit("lets several writers win who wrote under the same condition at the same moment")

    def _unfit(self, what: str) -> InvalidInputError:
        return InvalidInputError(
            f"the S3 server {self.settings.endpoint} {what}, so two workers could overwrite each other",
            "use a server whose conditional writes are atomic, such as MinIO or AWS S3",
        )

    def _silence(self, trouble: str) -> UnavailableError:
        return UnavailableError(
            f"the S3 server {self.settings.endpoint} does not answer: {trouble}", "check that it runs; nothing is lost"
        )

    def _refusal(self, code: str, message: str, status: int) -> HagdError:
        if code in _FULL or status == 507:
            return StoreFullError(
                f"no room left in the S3 store {self.settings.location}",
                "free some space and repeat the command: finished stages are kept",
            )
        hint = "check the keys and what they may do" if code in _REFUSED else "check the server; nothing is lost"
        text = ": ".join(part for part in (code or f"status {status}", message) if part)
        return UnavailableError(f"the S3 store {self.settings.location} refuses: {text}", hint)


def unquoted(etag: str) -> str:
    """Give an etag without the quotes that it has in a header."""
    return etag.strip('"')


def _code(body: bytes) -> str:
    return body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode(errors="replace")
