"""How k and the learning rate change over a training run."""


def annealed(step: int, steps: int, first: int, last: int) -> int:
    """Give k at a step: geometric from `first` to `last` over the first 60 % of the steps."""
    done = min(1.0, step / max(1, 0.6 * steps))
    return round(first * (last / first) ** done)


def is_balanced(step: int, steps: int) -> bool:
    """Say whether rare features are favoured at a step: in the first 90 % of the steps."""
    return step < 0.9 * steps


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Give the learning rate at a step: 10 steps of warm-up, constant to the middle, then linear to 1 %."""
    return peak * min(1.0, (step + 1) / 10, 2 * (1 - step / steps) + 0.01)
