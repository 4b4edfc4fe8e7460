"""What the options of a service say of its security, and which addresses it then serves."""

from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from hagd.deployment.security import (
    CallLimits,
    SecurityConfig,
    TlsFiles,
    TokenRules,
    is_loopback,
    security_of,
)
from hagd.deployment.settings import ServiceSettings
from hagd.errors import InvalidInputError

CERT, KEY, CA, KEYS = Path("c.pem"), Path("c.key"), Path("ca.pem"), Path("keys")
TOKENS = TokenRules(KEYS, "https://issuer.test", "hagd")


def read(**given: Any) -> SecurityConfig:
    return security_of(ServiceSettings(**given))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.8.9.10:0", "unix:/tmp/x"])
def test_loopback_needs_nothing(address: str) -> None:
    assert is_loopback(address)
    SecurityConfig().check_address(address)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", ":1", "10.0.0.1:1", "hagd.example:1", "localhost.evil:1"])
@pytest.mark.parametrize(
    ("security", "lacks"),
    [
        (SecurityConfig(), "TLS"),
        (SecurityConfig(tokens=TOKENS), "TLS"),
        (SecurityConfig(TlsFiles(CERT, KEY)), "client certificates or tokens"),
    ],
)
def test_an_address_that_others_reach_needs_tls_and_names(address: str, security: SecurityConfig, lacks: str) -> None:
    with pytest.raises(InvalidInputError, match=f"the service has no {lacks}") as caught:
        security.check_address(address)
    assert "--insecure" in caught.value.hint


@pytest.mark.parametrize(
    "security",
    [
        SecurityConfig(insecure=True),
        SecurityConfig(TlsFiles(CERT, KEY), TOKENS),
        SecurityConfig(TlsFiles(CERT, KEY, CA)),
        SecurityConfig(TlsFiles(CERT, KEY, CA), TOKENS),
    ],
)
def test_who_has_both_or_says_insecure_may_serve_any_address(security: SecurityConfig) -> None:
    security.check_address("0.0.0.0:50051")


def test_settings_say_whom_to_let_in(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("a")
    (tmp_path / "keys").mkdir()
    found = read(
        tls_cert=pair.cert, tls_key=pair.key, token_keys=tmp_path / "keys", token_issuer="x", concurrent_calls=7
    )

    assert found.tls == TlsFiles(pair.cert, pair.key)
    assert found.tokens == TokenRules(tmp_path / "keys", "x", "hagd")
    assert (found.insecure, found.limits.concurrent_calls) == (False, 7)
    assert read(insecure=True).insecure
    assert read() == SecurityConfig()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tls_cert": "c"}, "TLS needs a certificate and its key"),
        ({"tls_client_ca": "c"}, "TLS needs a certificate and its key"),
        ({"tls_cert": "nowhere", "tls_key": "nowhere"}, "there is no file nowhere"),
        ({"token_keys": "nowhere"}, "there is no folder nowhere"),
        ({"token_keys": "."}, "tokens without an issuer"),
    ],
)
def test_settings_that_leave_a_hole_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read(**given)


def test_a_limit_that_lets_nothing_through_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="below 1"):
        CallLimits(concurrent_streams=0)
