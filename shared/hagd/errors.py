"""Every error a user can meet, as one tree. Each carries what happened and what to do next.

HagdError
├── UsageError                 the request itself is wrong (exit 2)
│   ├── UnknownNameError       a task, model, stage or kind that does not exist
│   ├── UnsupportedArchitectureError
│   └── InvalidInputError      a prompt file, config value or checkpoint that cannot be used
├── StageError                 a stage ran and could not give a result (exit 1)
│   ├── AccuracyGateError      the base model does not know the task
│   └── NonFiniteError         a NaN or an infinity crossed a stage border
├── ArtifactError              the store (exit 1)
│   ├── ArtifactNotFoundError
│   ├── CorruptArtifactError   bytes do not match their digest
│   └── StoreFullError
├── RunError                   a run folder or run state (exit 1)
│   ├── NotARunError
│   ├── RunLockedError
│   ├── RunConflictError       the same request id with another body
│   └── QuotaExceededError     too many runs of one principal go on (transient)
├── AccessError                who calls, and what he may do (exit 1)
│   ├── UnauthenticatedError   no name that somebody vouches for
│   └── PermissionDeniedError  a name, and not the right to do this
├── CancelledError             somebody asked to stop (exit 130)
├── WorkerDiedError            a worker process ended without an answer (transient)
├── UnservedVersionError       a newer release wrote this, which one that is to come will read (transient)
└── UnavailableError           a service, log or store does not answer (exit 4, transient)
"""

from typing import ClassVar


class HagdError(Exception):
    """Base of the tree. `message` says what was expected and what came; `hint` says what to do."""

    kind: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type["HagdError"], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class UsageError(HagdError):
    kind = "usage"
    exit_code = 2


class UnknownNameError(UsageError):
    kind = "unknown-name"


class UnsupportedArchitectureError(UsageError):
    kind = "unsupported-architecture"


class InvalidInputError(UsageError):
    kind = "invalid-input"


class StageError(HagdError):
    kind = "stage"


class AccuracyGateError(StageError):
    kind = "accuracy-gate"


class NonFiniteError(StageError):
    kind = "non-finite"


class ArtifactError(HagdError):
    kind = "artifact"


class ArtifactNotFoundError(ArtifactError):
    kind = "artifact-not-found"


class CorruptArtifactError(ArtifactError):
    kind = "artifact-corrupt"


class StoreFullError(ArtifactError):
    kind = "store-full"


class RunError(HagdError):
    kind = "run"


class NotARunError(RunError):
    kind = "not-a-run"


class RunLockedError(RunError):
    kind = "run-locked"


class RunConflictError(RunError):
    kind = "run-conflict"


class QuotaExceededError(RunError):
    kind = "quota-exceeded"
    transient = True


class AccessError(HagdError):
    kind = "access"


class UnauthenticatedError(AccessError):
    kind = "unauthenticated"


class PermissionDeniedError(AccessError):
    kind = "permission-denied"


class CancelledError(HagdError):
    kind = "cancelled"
    exit_code = 130


class WorkerDiedError(HagdError):
    kind = "worker-died"
    transient = True


class UnservedVersionError(HagdError):
    kind = "unserved-version"
    transient = True


class UnavailableError(HagdError):
    kind = "unavailable"
    exit_code = 4
    transient = True
