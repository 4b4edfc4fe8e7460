"""Who makes the call at hand. The gate says so before a method begins; methods and the tasks they start can ask."""

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from hagd.errors import UnauthenticatedError
from hagd.rpc.security.scopes import ALL_SCOPES

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,199}")


@dataclass(frozen=True)
class Caller:
    """Somebody with a name, and what he may do."""

    principal: str
    """Under this name his runs are kept."""
    scopes: frozenset[str] = ALL_SCOPES


LOCAL: Final = Caller("local")
"""Whoever reaches a service that asks for nothing, which is one on loopback."""
_CALLER: ContextVar[Caller] = ContextVar("caller", default=LOCAL)


def caller() -> Caller:
    """Give who makes the call at hand."""
    return _CALLER.get()


def set_caller(found: Caller) -> None:
    """Say who makes the call at hand; every call has a task of its own, so nothing need be taken back."""
    _CALLER.set(found)


def checked_principal(name: str, source: str) -> str:
    """Give a name that can be one of a principal.

    Raises:
        UnauthenticatedError: it cannot.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UnauthenticatedError(
            f"{source} names somebody whose name cannot be kept",
            "use lower-case letters, digits, '_', '-' and single '.', starting with a letter or digit",
        )
    return name


def caller_of_certificate(auth_context: Mapping[str, Sequence[bytes]]) -> Caller:
    """Give who has shown a certificate: its common name or, without one, its first other name. He may do everything.

    Raises:
        UnauthenticatedError: the certificate names nobody whose name can be kept.
    """
    for field in ("x509_common_name", "x509_subject_alternative_name"):
        names = auth_context.get(field, ())
        if names and names[0]:
            return Caller(checked_principal(names[0].decode(errors="replace"), "the client certificate"))
    raise UnauthenticatedError("the client certificate names nobody", "issue one with a common name")
