"""Certificates and tokens made on the spot, so that tests of security need no files that could go out of date."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER, AUDIENCE = "https://issuer.test", "hagd"
EVERYTHING = "runs:submit runs:read runs:cancel api:reflect"
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
_ALGORITHMS: Mapping[type, str] = {
    ec.EllipticCurvePrivateKey: "ES256",
    ed25519.Ed25519PrivateKey: "EdDSA",
    rsa.RSAPrivateKey: "RS256",
}


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key as files."""

    cert: Path
    key: Path


class Authority:
    """Somebody who signs certificates."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.ca = folder, folder / f"{name}.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key, timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.ca.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, names: Sequence[str] = (), days: float = 1.0, file: str = "") -> Pair:
        """Give a certificate for `name` that is good for servers and clients on loopback."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
        alternatives: list[x509.GeneralName] = [x509.DNSName(it) for it in names]
        alternatives += [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = _builder(subject, self._name, key, timedelta(days=days))
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.add_extension(uses, critical=False).sign(self._key, hashes.SHA256())
        stem = file or name or "nameless"
        pair = Pair(self.folder / f"{stem}.pem", self.folder / f"{stem}.key")
        pair.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(private_pem(key))
        return pair


def _builder(subject: x509.Name, issuer: x509.Name, key: Any, length: timedelta) -> x509.CertificateBuilder:
    begin = datetime.now(UTC) - timedelta(days=2)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(datetime.now(UTC) + length)
    )


@dataclass
class Issuer:
    """Somebody who signs tokens, and keeps the folder of public keys that a service reads."""

    folder: Path
    keys: dict[str, PrivateKey] = field(default_factory=dict[str, PrivateKey])

    def add(self, kid: str, key: PrivateKey | None = None) -> PrivateKey:
        """Let a key count."""
        self.folder.mkdir(parents=True, exist_ok=True)
        made = key or ed25519.Ed25519PrivateKey.generate()
        self.keys[kid] = made
        (self.folder / f"{kid}.pem").write_bytes(public_pem(made))
        return made

    def remove(self, kid: str) -> None:
        """Let a key count no more."""
        (self.folder / f"{kid}.pem").unlink()

    def token(self, kid: str, sub: str = "alice", scope: str = EVERYTHING, **claims: Any) -> str:
        """Sign a token; claims that are None are left out."""
        key = self.keys[kid]
        now = datetime.now(UTC)
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": sub, "scope": scope, "exp": now + timedelta(minutes=5)}
        content = {name: value for name, value in {**said, **claims}.items() if value is not None}
        algorithm = next(name for kind, name in _ALGORITHMS.items() if isinstance(key, kind))
        return jwt.encode(content, private_pem(key), algorithm, headers={"kid": kid})
