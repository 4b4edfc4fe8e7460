"""Errors keep their class, message and hint across the wire, and nothing else of the server leaks."""

import pytest
from google.rpc import code_pb2, error_details_pb2

from hagd import errors
from hagd.errors import HagdError
from hagd.rpc.status import from_status, to_status


def classes(root: type[HagdError]) -> list[type[HagdError]]:
    return [
        root,
        *(cls for child in root.__subclasses__() if child.__module__ == errors.__name__ for cls in classes(child)),
    ]


@pytest.mark.parametrize("cls", classes(HagdError))
def test_every_error_of_the_tree_comes_back_as_it_was(cls: type[HagdError]) -> None:
    back = from_status(to_status(cls("7 came, 3 were expected", "send 3")))
    assert type(back) is cls
    assert (back.message, back.hint) == ("7 came, 3 were expected", "send 3")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInputError("x"), code_pb2.INVALID_ARGUMENT),
        (errors.RunConflictError("x"), code_pb2.ALREADY_EXISTS),
        (errors.UnknownNameError("x"), code_pb2.NOT_FOUND),
        (errors.UnavailableError("x"), code_pb2.UNAVAILABLE),
        (errors.StoreFullError("x"), code_pb2.RESOURCE_EXHAUSTED),
        (HagdError("x"), code_pb2.INTERNAL),
    ],
)
def test_the_code_says_what_kind_of_trouble_it_is_to_those_who_know_nothing_of_ours(
    error: HagdError, code: int
) -> None:
    assert to_status(error).code == code


def test_the_detail_is_the_standard_one() -> None:
    info = error_details_pb2.ErrorInfo()
    assert to_status(errors.NonFiniteError("NaN at 5", "train slower")).details[0].Unpack(info)
    assert (info.reason, info.domain) == ("non-finite", "hagd")
