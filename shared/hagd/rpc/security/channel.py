"""The caller's side: a connection that trusts the right authority, and a token that is read from its file each time."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from hagd.deployment.security import is_loopback, message_options
from hagd.errors import InvalidInputError, UnavailableError


@dataclass(frozen=True)
class ClientSecurity:
    """With what a caller shows who he is, and how he knows the service. All of it stands in files."""

    ca_file: Path | None = None
    """Who signs the certificate of the service, PEM; the wire is plain text when None."""
    cert_file: Path | None = None
    """The certificate to show, PEM."""
    key_file: Path | None = None
    """Its private key, PEM."""
    token_file: Path | None = None
    """Holds a token, which is read for every call, so that it can be renewed under a long one."""

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> "ClientSecurity":
        """Read HAGD_CA_FILE, HAGD_CERT_FILE, HAGD_KEY_FILE and HAGD_TOKEN_FILE."""

        def path(name: str) -> Path | None:
            return Path(environment[name]) if environment.get(name) else None

        return ClientSecurity(
            path("HAGD_CA_FILE"), path("HAGD_CERT_FILE"), path("HAGD_KEY_FILE"), path("HAGD_TOKEN_FILE")
        )

    def open(self, address: str) -> grpc.Channel:
        """Give a channel, which connects at the first call.

        Raises:
            InvalidInputError: a certificate without its key or without an authority, or a token that would travel
                another network in plain text.
            UnavailableError: a file cannot be read.
        """
        if (self.cert_file is None) != (self.key_file is None) or (self.cert_file and not self.ca_file):
            raise InvalidInputError(
                "a client certificate needs its key and an authority", "give --ca-file, --cert-file and --key-file"
            )
        if self.ca_file is None:
            if self.token_file is not None and not is_loopback(address):
                raise InvalidInputError(
                    f"a token would travel to {address} in plain text", "give --ca-file, so that the wire is encrypted"
                )
            return grpc.insecure_channel(address, options=message_options())
        files = (self.ca_file, self.key_file, self.cert_file)
        ca, key, cert = (None if path is None else _read(path) for path in files)
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert), options=message_options())

    def metadata(self) -> list[tuple[str, str]]:
        """Give what goes along with a call.

        Raises:
            InvalidInputError: the file holds no token.
            UnavailableError: it cannot be read.
        """
        if self.token_file is None:
            return []
        token = _read(self.token_file).decode(errors="replace").strip()
        if not token or not token.isascii() or any(it.isspace() for it in token):
            raise InvalidInputError(f"{self.token_file} holds no token", "write the token alone into it")
        return [("authorization", f"Bearer {token}")]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnavailableError(f"a file cannot be read: {error}", "check the options and HAGD_*_FILE") from error
