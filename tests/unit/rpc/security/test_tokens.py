"""Which tokens count, and that one that does not is never quoted."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certificates import AUDIENCE, ISSUER, Issuer, private_pem, public_pem
from hagd.deployment.security import TokenRules
from hagd.errors import UnauthenticatedError
from hagd.rpc.security.tokens import TokenVerifier

NOW = datetime.now(UTC)


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    made = Issuer(tmp_path / "keys")
    made.add("one")
    return made


@pytest.fixture
def verifier(issuer: Issuer) -> TokenVerifier:
    return TokenVerifier(TokenRules(issuer.folder, ISSUER, AUDIENCE))


def refusal(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        verifier.verify(token)
    told = f"{caught.value.message} {caught.value.hint}"
    assert all(part not in told for part in token.split(".") if len(part) > 3)
    assert caught.value.__cause__ is None
    return caught.value.message


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def unsigned(header: dict[str, Any], **claims: Any) -> str:
    content = {"iss": ISSUER, "aud": AUDIENCE, "sub": "mallory", "exp": int(NOW.timestamp()) + 86400, **claims}
    return f"{encoded(header)}.{encoded(content)}"


def test_a_good_token_names_its_principal_and_scopes(issuer: Issuer, verifier: TokenVerifier) -> None:
    found = verifier.verify(issuer.token("one", "alice", "runs:read runs:submit"))

    assert (found.principal, found.scopes) == ("alice", {"runs:read", "runs:submit"})
    assert verifier.verify(issuer.token("one", "bob", ["runs:read"])).scopes == {"runs:read"}  # type: ignore[arg-type]
    assert verifier.verify(issuer.token("one", scope=None)).scopes == frozenset()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["EdDSA", "ES256", "RS256"],
)
def test_keys_of_three_kinds_count(key: Any, issuer: Issuer, verifier: TokenVerifier) -> None:
    issuer.add("other", key)

    assert verifier.verify(issuer.token("other")).principal == "alice"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW - timedelta(minutes=5)}, "it has expired"),
        ({"nbf": NOW + timedelta(days=1), "exp": NOW + timedelta(days=2)}, "it is not valid yet"),
        ({"aud": "somebody-else"}, "it is meant for another audience"),
        ({"iss": "https://elsewhere.test"}, "it is from another issuer"),
        ({"exp": None}, "it lacks exp, iss, aud or sub"),
        ({"sub": None}, "it lacks exp, iss, aud or sub"),
        ({"aud": None}, "it lacks exp, iss, aud or sub"),
        ({"iss": None}, "it lacks exp, iss, aud or sub"),
        ({"sub": "../etc"}, "names somebody whose name cannot be kept"),
        ({"sub": "Alice Smith"}, "names somebody whose name cannot be kept"),
    ],
)
def test_a_token_with_a_wrong_claim_does_not_count(
    claims: dict[str, Any], reason: str, issuer: Issuer, verifier: TokenVerifier
) -> None:
    assert reason in refusal(verifier, issuer.token("one", **claims))


def test_clocks_may_differ_by_the_leeway_and_no_more(issuer: Issuer, verifier: TokenVerifier) -> None:
    late = datetime.now(UTC)

    assert verifier.verify(issuer.token("one", exp=late - timedelta(seconds=10)))
    assert "expired" in refusal(verifier, issuer.token("one", exp=late - timedelta(seconds=31)))


def test_a_token_without_a_signature_does_not_count(verifier: TokenVerifier) -> None:
    for name in ("none", "None", "NONE", ""):
        assert "algorithm" in refusal(verifier, unsigned({"alg": name, "typ": "JWT", "kid": "one"}) + ".")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_no_shared_secret(algorithm: str, issuer: Issuer, verifier: TokenVerifier) -> None:
    for secret in (public_pem(issuer.keys["one"]), public_pem(issuer.keys["one"]).strip()):
        signed = unsigned({"alg": algorithm, "typ": "JWT", "kid": "one"})
        digest = hmac.new(secret, signed.encode(), getattr(hashlib, algorithm.replace("HS", "sha"))).digest()
        token = f"{signed}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"
        assert "its algorithm is not that of its key" in refusal(verifier, token)


def test_the_key_decides_the_algorithm(issuer: Issuer, verifier: TokenVerifier) -> None:
    issuer.add("curve", ec.generate_private_key(ec.SECP256R1()))
    signature = issuer.token("curve").rpartition(".")[2]
    forged = {"alg": "EdDSA", "typ": "JWT", "kid": "curve"}

    assert "algorithm" in refusal(verifier, f"{unsigned(forged)}.{signature}")


def test_a_changed_claim_breaks_the_signature(issuer: Issuer, verifier: TokenVerifier) -> None:
    header, _, signature = issuer.token("one").split(".")

    assert "signature" in refusal(
        verifier, f"{unsigned(json.loads(base64.urlsafe_b64decode(header + '==')))}.{signature}"
    )


@pytest.mark.parametrize(
    "token", ["", "x", "a.b", "a.b.c", "....", "é.é.é", "\0", "x" * 9000, "e30.e30.", "bnVsbA.e30.x"]
)
def test_noise_does_not_count(token: str, verifier: TokenVerifier) -> None:
    assert refusal(verifier, token).startswith("the token does not count")


@pytest.mark.parametrize("kid", ["../one", "one.pem", "/etc/passwd", "", "..", "one\0", 7, None, ["one"]])
def test_a_key_is_looked_for_in_the_folder_alone(kid: Any, issuer: Issuer, verifier: TokenVerifier) -> None:
    (issuer.folder.parent / "one.pem").write_bytes(public_pem(issuer.keys["one"]))

    assert refusal(verifier, unsigned({"alg": "EdDSA", "kid": kid}) + ".x").startswith("the token does not count")


def test_a_key_that_is_added_counts_and_one_that_is_removed_does_not(issuer: Issuer, verifier: TokenVerifier) -> None:
    old = issuer.token("one")
    assert verifier.verify(old)
    issuer.add("two")
    assert verifier.verify(issuer.token("two"))
    assert verifier.verify(old)
    issuer.remove("one")
    assert "its key is not known" in refusal(verifier, old)
    assert verifier.verify(issuer.token("two"))


def test_a_key_that_is_replaced_under_its_name_counts_at_once(issuer: Issuer, verifier: TokenVerifier) -> None:
    old = issuer.token("one")
    assert verifier.verify(old)
    issuer.add("one", ec.generate_private_key(ec.SECP256R1()))

    assert refusal(verifier, old)
    assert verifier.verify(issuer.token("one"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key",
        private_pem(ed25519.Ed25519PrivateKey.generate()),
        public_pem(rsa.generate_private_key(65537, 1024)),  # noqa: S505  # that it is too short is the point
        public_pem(ec.generate_private_key(ec.SECP384R1())),
    ],
    ids=["empty", "text", "private", "short RSA", "another curve"],
)
def test_a_key_that_is_none_or_too_weak_lets_nobody_in(content: bytes, issuer: Issuer, verifier: TokenVerifier) -> None:
    token = issuer.token("one")
    (issuer.folder / "one.pem").write_bytes(content)

    assert "its key cannot be used" in refusal(verifier, token)
