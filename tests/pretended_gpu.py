"""A GPU that is none: tensors that say `cuda` and are computed by the processor, so that placement is tested anywhere.

Each operation is refused that a GPU would refuse because its tensors lie on two devices; the values are true, so whole
stages run, whatever depends on values. What differs between the arithmetic of devices is left to tests marked `gpu`.

    with PretendedGpu():
        torch.zeros(3, device="cuda:0") + torch.zeros(3)      # raises MixedDevicesError
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

_GPU: Final = torch.device("cuda:0")
_CPU: Final = torch.device("cpu")
_META: Final = torch.device("meta")
_BETWEEN: Final = ("_to_copy", "copy_", "_pin_memory")
"""Operations that may see both devices."""
_INDEXING: Final = ("index", "index_put", "index_put_", "_index_put_impl_")
"""Operations whose indices may lie on the CPU."""


class MixedDevicesError(Exception):
    """An operation sees tensors of two devices."""


class _OnGpu(Tensor):
    """A tensor that says `cuda`, and the one on the CPU that holds its values."""

    held: Tensor

    @staticmethod
    def __new__(cls: type["_OnGpu"], held: Tensor) -> "_OnGpu":
        made: Any = torch.Tensor._make_wrapper_subclass(  # torch has no public way
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            # Inside torch it must be neither the CPU nor what has a driver.
            device=_META,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return _GPU

    # These torch refuses to all subclasses, or answers without asking them.

    def __getitem__(self, at: Any) -> Tensor:
        places = tuple(map(_without_list, at)) if isinstance(at, tuple) else _without_list(at)
        return super().__getitem__(places)

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("a tensor on a GPU is no array")
        return self.held.numpy(force=True)

    def new_tensor(self, data: Any) -> Tensor:
        return torch.tensor(data, dtype=self.dtype, device=_GPU)

    __torch_function__ = torch._C._disabled_torch_function_impl  # as torch's own wrappers do


class PretendedGpu(TorchDispatchMode):
    """While it is entered, `cuda:0` may be asked for; `cuda` alone would make torch ask a driver which one."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> "PretendedGpu":
        if not torch.cuda.is_available():
            # torch would look for a driver before it asks this class.
            self._patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        self._patch.setattr(torch, "tensor", partial(_tensor, torch.tensor))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patch.undo()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _tensor(made: Callable[..., Tensor], data: Any, *, device: Any = None, **named: Any) -> Tensor:
    """Give what `torch.tensor` makes; for a GPU it would ask nobody."""
    there = device is not None and torch.device(device) != _CPU
    return made(data, **named).to(_GPU) if there else made(data, **named)


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [it for it in tree_flatten((args, kwargs))[0] if isinstance(it, Tensor)]
    if any(it.is_meta and not isinstance(it, _OnGpu) for it in tensors):
        raise AssertionError(f"{name} sees a tensor without values, which torch made and asked nobody")
    pretended = any(isinstance(it, _OnGpu) for it in tensors)
    if pretended:
        _refuse_mixed(name, args, tensors)
    asked = kwargs.get("device")
    on_gpu = pretended if asked is None else torch.device(asked) != _CPU
    held_args, held_kwargs = tree_map(_held, (tuple(args), dict(kwargs)))
    if asked is not None:
        held_kwargs["device"] = _CPU
    if held_kwargs.get("pin_memory"):
        held_kwargs["pin_memory"] = False
    found = func(*held_args, **held_kwargs)
    if torch.Tag.inplace_view in func.tags:
        # What says how long and wide it is changes, too.
        with no_dispatch():
            func(*args, **kwargs)
    given = {id(_held(it)): it for it in tensors}
    return tree_map(lambda it: given.get(id(it), _wrapped(it, on_gpu)) if isinstance(it, Tensor) else it, found)


def _refuse_mixed(name: str, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    if name in _BETWEEN:
        return
    if name in _INDEXING and isinstance(args[0], _OnGpu):
        # Behind the indices come values.
        tensors = [args[0], *(it for it in args[2:] if isinstance(it, Tensor))]
    # A single number may come from the CPU, but nothing on the CPU may be changed by what is elsewhere.
    changed = tensors[0] if name.endswith("_") else None
    here = [it for it in tensors if not isinstance(it, _OnGpu) and (it.dim() or it is changed)]
    if here and any(isinstance(it, _OnGpu) for it in tensors):
        shapes = [(str(it.device), tuple(it.shape)) for it in tensors]
        raise MixedDevicesError(f"{name} sees tensors of two devices: {shapes}")


def _without_list(place: Any) -> Any:
    return torch.tensor(place) if isinstance(place, list) else place


def _held(value: Any) -> Any:
    return value.held if isinstance(value, _OnGpu) else value


def _wrapped(tensor: Tensor, on_gpu: bool) -> Tensor:
    return _OnGpu(tensor) if on_gpu else tensor


@contextmanager
def pretended_gpu() -> Generator[str]:
    """Let stages compute on a GPU that is none; give its name."""
    known = {
        "mem_get_info": (1 << 40, 1 << 40),
        "memory_reserved": 0,
        "memory_allocated": 0,
        "synchronize": None,
    }
    with pytest.MonkeyPatch.context() as patch, PretendedGpu():
        for name, answer in known.items():
            patch.setattr(torch.cuda, name, partial(_answer, answer))
        # It would look for a driver; products that are to be narrower then are not.
        patch.setattr(torch, "autocast", partial(_answer, nullcontext()))
        yield str(_GPU)


def _answer(answer: Any, *_args: object, **_named: object) -> Any:
    return answer


@contextmanager
def real_gpu() -> Generator[str]:
    """Give the name of a GPU; skip the test where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    yield "cuda:0"


GpuOfTest = Callable[[], AbstractContextManager[str]]
GPUS: Final = [pytest.param(pretended_gpu, id="pretended"), pytest.param(real_gpu, id="real", marks=pytest.mark.gpu)]
"""For `pytest.mark.parametrize`: what a test that compares a GPU with the CPU runs on."""
