"""Bearer tokens: JWT, signed by somebody whose public key lies in a folder.

The key decides the algorithm, never the token: an Ed25519 key takes EdDSA, a P-256 key ES256, an RSA key RS256, and
no key anything else. So neither `alg: none` nor a public key that is used as a shared secret gets anywhere.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hagd.deployment.security import TokenRules
from hagd.errors import UnauthenticatedError
from hagd.rpc.security.caller import Caller, checked_principal

PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_SHORTEST_RSA_BITS: Final = 2048
_LONGEST_TOKEN: Final = 8192
_KID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_REQUIRED: Final = ("exp", "iss", "aud", "sub")
# Our own words for each: those of the library may quote the token.
_REASONS: Final[dict[type[jwt.PyJWTError], str]] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidIssuedAtError: "it is not valid yet",
    jwt.InvalidAudienceError: "it is meant for another audience",
    jwt.InvalidIssuerError: "it is from another issuer",
    jwt.MissingRequiredClaimError: "it lacks exp, iss, aud or sub",
    jwt.InvalidAlgorithmError: "its algorithm is not that of its key",
}


@dataclass
class TokenVerifier:
    """Tells whose a token is. Keys are read again when their files change."""

    rules: TokenRules
    _keys: dict[str, tuple[tuple[int, int, int], str, PublicKey]] = field(
        default_factory=dict[str, tuple[tuple[int, int, int], str, PublicKey]], init=False
    )

    def verify(self, token: str) -> Caller:
        """Give who a token was made for, and what it allows.

        Raises:
            UnauthenticatedError: it does not count. The message says why and never holds the token.
        """
        if len(token) > _LONGEST_TOKEN:
            raise _refused("it is too long")
        try:
            kid = str(jwt.get_unverified_header(token).get("kid", ""))
            algorithm, key = self._key(kid)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self.rules.audience,
                issuer=self.rules.issuer,
                leeway=self.rules.leeway,
                options={"require": list(_REQUIRED)},
            )
        except jwt.PyJWTError as error:
            found = (reason for kind, reason in _REASONS.items() if isinstance(error, kind))
            raise _refused(next(found, "it is malformed, or its signature is not that of its key")) from None
        return Caller(checked_principal(str(claims["sub"]), "the token"), _scopes(claims))

    def _key(self, kid: str) -> tuple[str, PublicKey]:
        if not _KID.fullmatch(kid):
            raise _refused("it names no key")
        path = self.rules.keys / f"{kid}.pem"
        try:
            stat = path.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if kid not in self._keys or self._keys[kid][0] != stamp:
                self._keys[kid] = (stamp, *_read(path))
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            self._keys.pop(kid, None)
            missing = isinstance(error, FileNotFoundError)
            raise _refused("its key is not known" if missing else "its key cannot be used") from None
        return self._keys[kid][1:]


def _read(path: Path) -> tuple[str, PublicKey]:
    """Give a public key with the one algorithm that it is good for."""
    key = load_pem_public_key(path.read_bytes())
    match key:
        case ed25519.Ed25519PublicKey():
            return "EdDSA", key
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            return "ES256", key
        case rsa.RSAPublicKey() if key.key_size >= _SHORTEST_RSA_BITS:
            return "RS256", key
        case _:
            raise ValueError("neither Ed25519 nor P-256 nor RSA of 2048 bits or more")


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """Read `scope`: names with spaces between (RFC 8693), or a list of them."""
    said: Any = claims.get("scope", "")
    return frozenset(said.split() if isinstance(said, str) else map(str, said) if isinstance(said, list) else ())


def _refused(reason: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"the token does not count: {reason}", "get a fresh one from whoever issues them")
