"""The GPU that tests pretend to have refuses what a real one refuses, and gives true values."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from pretended_gpu import MixedDevicesError, PretendedGpu

MIXED: dict[str, Callable[[torch.Tensor], object]] = {
    "sum": lambda there: there + torch.ones(3),
    "number in place": lambda there: torch.zeros(()).add_(there.sum()),
    "numbers in place": lambda there: torch.zeros(3).add_(there),
    "concatenation": lambda there: torch.cat([there, torch.ones(2)]),
    "index of rows": lambda there: there.index_add_(0, torch.tensor([0]), torch.ones(1, device="cuda:0")),
    "index from there": lambda there: torch.ones(3)[there.long()],
    "values put here": lambda there: torch.ones(3).index_put_((torch.tensor([0]),), there[:1]),
    "choice": lambda there: torch.where(torch.ones(3) > 0, there, there),
}


@pytest.mark.parametrize("operation", MIXED.values(), ids=MIXED)
def test_tensors_of_two_devices_are_refused(operation: Callable[[torch.Tensor], object]) -> None:
    with PretendedGpu(), pytest.raises(MixedDevicesError):
        operation(torch.ones(3, device="cuda:0"))


def test_what_torch_allows_between_devices_is_allowed() -> None:
    with PretendedGpu():
        there = torch.tensor([2.0, 3.0, 5.0], device="cuda:0")
        assert (there * torch.tensor(2.0)).tolist() == [4.0, 6.0, 10.0]
        assert there[torch.tensor([2, 0])].tolist() == [5.0, 2.0]
        here = torch.zeros(5)
        here[1:4] = there
        assert here.tolist() == [0.0, 2.0, 3.0, 5.0, 0.0]


def test_what_is_made_says_where_it_is() -> None:
    with PretendedGpu():
        there = torch.arange(6.0).view(2, 3).to("cuda:0")
        made = (there, there.T, there @ there.T, torch.zeros_like(there), there.new_tensor([1.0]), there[there > 2])
        assert {str(it.device) for it in made} == {"cuda:0"}
        assert there.sum(1).cpu().numpy().tolist() == [3.0, 12.0]
        assert str(torch.zeros(2).to(there).device) == "cuda:0"
        assert str(torch.zeros(2).device) == "cpu"


def test_copies_between_devices_share_no_memory() -> None:
    with PretendedGpu():
        here = torch.zeros(3)
        there = here.to("cuda:0")
        there += 1
        back = there.cpu()
        there += 1
        assert (here.tolist(), back.tolist(), there.tolist()) == ([0.0] * 3, [1.0] * 3, [2.0] * 3)


def test_gradients_are_where_their_tensors_are() -> None:
    with PretendedGpu():
        rows, weights = torch.ones(4, 3).to("cuda:0"), torch.ones(5, device="cuda:0", requires_grad=True)
        which, begins = torch.tensor([0, 1, 2, 3, 0]).to("cuda:0"), torch.tensor([0, 3]).to("cuda:0")
        bag = functional.embedding_bag(which, rows, begins, mode="sum", per_sample_weights=weights)
        (gradient,) = torch.autograd.grad(bag.square().sum(), weights)
        assert str(gradient.device) == "cuda:0"
        assert gradient.tolist() == [18.0, 18.0, 18.0, 12.0, 12.0]
