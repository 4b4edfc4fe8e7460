"""What the hub's library raises, as our errors: who may not, what is not there, and what does not answer."""

import errno
from collections.abc import Generator
from contextlib import contextmanager

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hagd.errors import (
    HagdError,
    InvalidInputError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnknownNameError,
)

LOGIN_HINT = "put a token into HF_TOKEN, or into a file that HF_TOKEN_PATH names"
ENDPOINT_HINT = "look at HF_ENDPOINT, and at proxies in between"
_LONGEST = 200


@contextmanager
def asking(what: str, *, hint: str = f"check the spelling; for a private one {LOGIN_HINT}") -> Generator[None]:
    """Stand around calls of the hub's library, and nothing else.

    Args:
        what: what is asked for, such as `model 'OWNER/NAME'`.
        hint: what to do where there is no such thing.

    Raises:
        UnknownNameError: there is no such repository, revision or file.
        UnauthenticatedError: there is no token, or the hub does not take it.
        PermissionDeniedError: the account of the token may not do this.
        InvalidInputError: the hub refuses what it was sent.
        UnavailableError: the hub does not answer, or not as a hub does.
    """
    try:
        yield
    except HagdError:
        raise
    except Exception as error:  # beside its own, the library lets through whatever its transports raise
        raise _translated(error, what, hint) from error


def _translated(error: BaseException, what: str, hint: str) -> HagdError:
    found: HagdError
    match error:
        case RevisionNotFoundError():
            found = UnknownNameError(f"there is no {what}: the repository has no such revision", "give another one")
        case GatedRepoError():
            found = PermissionDeniedError(
                f"{what} is gated, and the hub knows of no consent to its terms",
                f"agree to them on its page, then {LOGIN_HINT}",
            )
        case RepositoryNotFoundError() | RemoteEntryNotFoundError() | HFValidationError():
            found = UnknownNameError(f"there is no {what} on the hub that can be read", hint)
        case LocalTokenNotFoundError():
            found = UnauthenticatedError("the hub asks who you are", LOGIN_HINT)
        case HfHubHTTPError() if error.response.status_code == 401 and not _had_token(error):
            # So a hub answers for what is private and for what is not there.
            found = UnknownNameError(f"there is no {what} on the hub that can be read", hint)
        case HfHubHTTPError():
            found = _of_status(error, what)
        case OfflineModeIsEnabled():
            found = UnavailableError(
                f"{what} is not here, and the hub does not answer as HF_HUB_OFFLINE is set",
                "unset it, or give a folder",
            )
        case RuntimeError() | LocalEntryNotFoundError() if error.__cause__ is not None:
            # Both only tell that something went wrong underneath.
            found = _translated(error.__cause__, what, hint)
        case OSError() if error.filename is not None or error.errno == errno.ENOSPC:
            found = InvalidInputError(
                f"the hub's cache cannot be used: {_told(error)}", "free space, or name another folder in HF_HOME"
            )
        case ValueError() | TypeError() | LookupError() | AttributeError():
            found = UnavailableError(f"what answers for {what} is no hub: {_told(error)}", ENDPOINT_HINT)
        case _:
            found = UnavailableError(
                f"the hub does not answer for {what}: {_told(error)}", "check the network and HF_ENDPOINT, try again"
            )
    return found


def _of_status(error: HfHubHTTPError, what: str) -> HagdError:
    said = (error.server_message or error.response.headers.get("X-Error-Message") or "no reason given")[:_LONGEST]
    found: HagdError
    match error.response.status_code:
        case 401:
            found = UnauthenticatedError(f"the hub does not take the token for {what}: {said}", LOGIN_HINT)
        case 402 | 403:
            found = PermissionDeniedError(
                f"the hub refuses {what} to the account of the token: {said}", "take a token that may do this"
            )
        case 404:
            found = UnknownNameError(f"there is no {what} on the hub: {said}", "check the spelling")
        case 409 | 412:
            found = UnavailableError(f"somebody else changed {what} meanwhile: {said}", "issue the same command again")
        case 400 | 413 | 422:
            found = InvalidInputError(f"the hub does not accept this for {what}: {said}", "correct what it names")
        case status:
            found = UnavailableError(f"the hub answers {status} for {what}: {said}", "try again later")
    return found


def _had_token(error: HfHubHTTPError) -> bool:
    return "authorization" in error.response.request.headers


def _told(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0][:_LONGEST]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
