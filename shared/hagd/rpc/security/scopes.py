"""What a token must allow for each method of each service: one table. A method that is not in it cannot be called."""

from collections.abc import Mapping
from typing import Final

SUBMIT: Final = "runs:submit"
READ: Final = "runs:read"
CANCEL: Final = "runs:cancel"
REFLECT: Final = "api:reflect"
OPEN: Final = ""
"""Anybody may: who asks whether a service lives, as Kubernetes does, has no token."""

_STAGE: Final = {
    "Submit": SUBMIT,
    "Get": READ,
    "List": READ,
    "Wait": READ,
    "Watch": READ,
    "Cancel": CANCEL,
}
_SERVICES: Final[Mapping[str, Mapping[str, str]]] = {
    "hagd.api.transcoder.v1.TranscoderService": {**_STAGE, "StreamExtractions": SUBMIT},
    "hagd.api.coarsening.v1.CoarseningService": _STAGE,
    "hagd.api.traversal.v1.TraversalService": _STAGE,
    "hagd.api.verification.v1.VerificationService": _STAGE,
    "google.longrunning.Operations": {
        "GetOperation": READ,
        "ListOperations": READ,
        "WaitOperation": READ,
        "CancelOperation": CANCEL,
        "DeleteOperation": CANCEL,
    },
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": REFLECT},
    "grpc.health.v1.Health": {"Check": OPEN, "Watch": OPEN, "List": OPEN},
}
SCOPES: Final[Mapping[str, str]] = {
    f"/{service}/{method}": scope for service, methods in _SERVICES.items() for method, scope in methods.items()
}
"""By the path of a method."""
ALL_SCOPES: Final = frozenset({SUBMIT, READ, CANCEL, REFLECT})
