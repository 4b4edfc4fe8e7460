"""Split points into groups of equal size that lie close together."""

import numpy as np
from jaxtyping import Float, Int

_ROUNDS = 12


def split_balanced(points: Float[np.ndarray, "node axis"], n_groups: int) -> Int[np.ndarray, " node"]:
    """Give each point's group; group sizes differ by at most one, groups are numbered by first member.

    Recursive halving: points are ordered along their main direction and cut in proportion, then both halves' centres
    are moved and the order renewed until it stays (two-means with fixed sizes). Deterministic; ties keep the order
    of the points.
    """
    labels = np.zeros(len(points), dtype=np.int64)
    waiting = [(np.arange(len(points)), n_groups)]
    n_done = 0
    while waiting:
        members, wanted = waiting.pop()
        if wanted == 1:
            labels[members] = n_done
            n_done += 1
            continue
        left = wanted // 2
        n_left = _left_size(len(members), wanted, left)
        order = _order(points[members], n_left)
        waiting += [(np.sort(members[order[:n_left]]), left), (np.sort(members[order[n_left:]]), wanted - left)]
    first = np.full(n_done, len(points))
    np.minimum.at(first, labels, np.arange(len(points)))
    return np.argsort(np.argsort(first))[labels]


def _left_size(n_points: int, n_groups: int, left: int) -> int:
    """Give the size of the first `left` of `n_groups` near-equal groups."""
    small, extra = divmod(n_points, n_groups)
    return left * small + min(extra, left)


def _order(points: Float[np.ndarray, "node axis"], n_left: int) -> Int[np.ndarray, " node"]:
    """Order points so that the first `n_left` and the rest are two tight halves."""
    centred = points - points.mean(0)
    if not np.abs(centred).max(initial=0.0) > 1e-12:
        return np.arange(len(points))
    _, _, directions = np.linalg.svd(centred.T @ centred)
    along = centred @ directions[0]
    order = np.argsort(along, kind="stable")
    for _ in range(_ROUNDS):
        direction = points[order[n_left:]].mean(0) - points[order[:n_left]].mean(0)
        renewed = np.argsort(points @ direction, kind="stable")
        if set(renewed[:n_left].tolist()) == set(order[:n_left].tolist()):
            break
        order = renewed
    return order
