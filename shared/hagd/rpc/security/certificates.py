"""TLS of a server whose files may be replaced while it serves.

gRPC asks before every handshake whether there is anything new. Connections that stand are not touched. Files that do
not fit together, as in the moment between two copies, leave what was there in force.
"""

import ssl
from typing import Any, Final

import grpc
import structlog

from hagd.deployment.security import TlsFiles
from hagd.errors import InvalidInputError, UnavailableError

_log: Any = structlog.get_logger("hagd.rpc.security")
_Stamp = tuple[tuple[int, int, int], ...]


class ServerCertificates:
    """What a server shows, and whom it trusts, as the files stand."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            InvalidInputError: they are no certificate and the key that belongs to it.
            UnavailableError: they cannot be read.
        """
        self._files: Final = files
        self._seen = self._stamp()
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Give what a port is opened with."""
        demanded = self._files.client_ca is not None
        # The stub does not know of None, which the library takes for "nothing new".
        changed: Any = self.changed
        return grpc.dynamic_ssl_server_credentials(self._first, changed, demanded)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Give what is in the files when that is new and whole; else None, which means to go on as before."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return None
            found = self._read()
        except (InvalidInputError, UnavailableError) as error:
            _log.warning("certificates cannot be used; those from before stay", reason=error.message)
            return None
        self._seen = stamp
        _log.info("certificates were replaced")
        return found

    def _read(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        try:
            # Refuses what does not fit together, which gRPC would notice only when somebody calls.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.cert, files.key, password=_no_password)
            if files.client_ca is not None:
                context.load_verify_locations(files.client_ca)
            pair = (files.key.read_bytes(), files.cert.read_bytes())
            trusted = files.client_ca.read_bytes() if files.client_ca is not None else None
        except ssl.SSLError as error:
            raise InvalidInputError(
                f"{files.cert} and {files.key} are no certificate and its key: {error.reason or 'unreadable'}",
                "give PEM files that belong together, the key without a password",
            ) from error
        except OSError as error:
            raise _unreadable(error) from error
        return grpc.ssl_server_certificate_configuration([pair], trusted)

    def _stamp(self) -> _Stamp:
        paths = [path for path in (self._files.cert, self._files.key, self._files.client_ca) if path is not None]
        try:
            stats = [path.stat() for path in paths]
        except OSError as error:
            raise _unreadable(error) from error
        return tuple((it.st_ino, it.st_mtime_ns, it.st_size) for it in stats)


def _unreadable(error: OSError) -> UnavailableError:
    return UnavailableError(f"a file of TLS cannot be read: {error}", "check --tls-cert, --tls-key and --tls-client-ca")


def _no_password() -> str:
    """Answer instead of a prompt, on which a service would hang."""
    return ""
