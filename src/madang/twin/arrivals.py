"""Who comes when: a list of pods, shuffled or in time, made longer or shorter to a given load.

The published protocol (Weng et al., ATC 2023): shuffle; append pods drawn with replacement until
one more would ask for more than that part of the fleet's devices, or delete at random until the
list asks for no more. Nothing leaves. In order of time the list is repeated instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from madang.errors import Rejected
from madang.twin.trace import Pod

SEEDS_MAX = 1000


def seeds_of(text: str) -> tuple[int, ...]:
    """Read `42..51` or `1,5,9`.

    >>> seeds_of("42..44"), seeds_of("7")
    ((42, 43, 44), (7,))
    """
    out: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        ends = (first, last if dots else first)
        if not all(end.isascii() and end.isdigit() and len(end) < 10 for end in ends):
            raise Rejected("twin.bad-seeds", subject=text)
        span = range(int(ends[0]), int(ends[1]) + 1)
        if not span or len(out) + len(span) > SEEDS_MAX:
            raise Rejected("twin.bad-seeds", subject=text)
        out.extend(span)
    return tuple(out)


def shuffled(pods: Sequence[Pod], capacity_milli: int, load: float, seed: int) -> list[Pod]:
    """Return the arrivals of one seed."""
    draw = np.random.default_rng(seed)
    out = [pods[i] for i in draw.permutation(len(pods))]
    asked, limit = sum(pod.milli for pod in out), load * capacity_milli
    if asked > limit:
        keep = np.ones(len(out), bool)
        for i in draw.permutation(len(out)):
            if asked <= limit:
                break
            keep[i] = False
            asked -= out[i].milli
        return [pod for pod, stays in zip(out, keep, strict=True) if stays]
    while any(pod.milli for pod in pods):
        pod = pods[int(draw.integers(len(pods)))]
        if asked + pod.milli > limit:
            break
        out.append(pod)
        asked += pod.milli
    return out


def in_time(pods: Sequence[Pod], capacity_milli: int, load: float) -> list[Pod]:
    """Return the arrivals as they were created, again and again until the load is reached."""
    order = sorted(pods, key=lambda pod: pod.created_s)
    out, asked, limit = list[Pod](), 0, load * capacity_milli
    while any(pod.milli for pod in order):
        for pod in order:
            if asked + pod.milli > limit:
                return out
            out.append(pod)
            asked += pod.milli
    return out
