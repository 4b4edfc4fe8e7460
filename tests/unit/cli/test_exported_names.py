"""What `import hagd` offers: listed, sorted, nothing else."""

import inspect

import hagd


def test_exported_names_are_listed_and_sorted() -> None:
    assert hagd.__all__ == ["Extraction", "HagdError", "__version__", "extract", "open_run", "trace"]
    assert sorted(hagd.__all__) == hagd.__all__


def test_every_exported_name_is_there() -> None:
    for name in hagd.__all__:
        assert getattr(hagd, name) is not None


def test_nothing_public_is_unlisted_but_subpackages() -> None:
    own = {
        name
        for name, value in vars(hagd).items()
        if not name.startswith("_") and not inspect.ismodule(value) and getattr(value, "__module__", "hagd") == "hagd"
    }
    assert own - {"TYPE_CHECKING"} <= set(hagd.__all__)


def test_every_function_says_what_it_does_and_raises() -> None:
    for function in (hagd.extract, hagd.open_run, hagd.trace):
        assert "Raises:" in (function.__doc__ or "")
