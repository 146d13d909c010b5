"""The least longest wait that any rule could reach on the windows where ours misses its floor.

`make bench-waits-least`. A rule is given all that it
could wish for: it knows every duration, stops and starts for nothing, and runs part of a gang. Who
came at r and runs for p has to end by r + p + W, if nobody is to wait for more than W. So of its
work what does not fit before a or after b has to be done from a to b; where that of all is more
than the pool has, W is out of reach for every rule (energetic reasoning: Baptiste, Le Pape and
Nuijten 2001). The other figure is one that a rule has reached which knows no duration: who came
first runs first, others fill up behind. In between nobody knows here.
"""

from __future__ import annotations

import numpy as np

from madang.planning.share.line import Floats, Ints
from madang.planning.share.rule import HOUR_S
from madang.twin.disciplines import Sorted
from madang.twin.jobs import Asked
from madang.twin.queue import Queue, Yard, play
from madang.twin.waits import waits_h
from philly import sized, window
from rows import Row, write

WINDOWS = ((0, 15), (20, 35), (40, 60), (60, 80))
LOAD = 1.2
STEPS_BEFORE, STEPS_AFTER = 60, 240
"""So many moments are tried as a and as b; each pair that is in the way is one of its own."""
WITHIN_H = 0.25


def least_h(listed: list[Asked], gpus: int) -> float:
    """Return a wait in hours, to a quarter below, that is out of reach on so many accelerators."""
    fitting = [job for job in listed if 0 < job.size <= gpus]
    came_h = np.array([job.came_s for job in fitting]) / HOUR_S
    runs_h = np.array([job.runs_s for job in fitting]) / HOUR_S
    size = np.array([job.size for job in fitting], np.float64)
    out_of_reach, within_reach = 0.0, 1_000.0
    while within_reach - out_of_reach > WITHIN_H:
        middle = (out_of_reach + within_reach) / 2
        if is_too_much(came_h, runs_h, size, gpus, middle):
            out_of_reach = middle
        else:
            within_reach = middle
    return out_of_reach


def is_too_much(came_h: Floats, runs_h: Floats, size: Floats, gpus: int, wait_h: float) -> bool:
    """Tell whether between two moments more has to be done than can be, if none is to wait more."""
    due_h = came_h + runs_h + wait_h
    last_h = float(came_h.max())
    ends_h = np.linspace(1.0, float(due_h.max()), STEPS_AFTER)
    after_h = np.maximum(0.0, due_h - np.maximum(ends_h[:, None], came_h))
    for begin_h in np.linspace(0.0, last_h, STEPS_BEFORE).tolist():
        before_h = np.maximum(0.0, np.minimum(begin_h, due_h) - came_h)
        must_h = (np.maximum(0.0, runs_h - before_h - after_h) * size).sum(axis=1)
        room_h = gpus * np.maximum(0.0, ends_h - begin_h)
        if bool((must_h > room_h + 1e-6)[ends_h > begin_h].any()):
            return True
    return False


class Came(Sorted):
    """Who came first runs first, and others are stopped for it; who fits behind fills up."""

    def figure(self, queue: Queue, who: Ints) -> Floats:
        """Return when each came."""
        found: Floats = queue.came_s[who]
        return found


def row(days: tuple[int, int]) -> Row:
    """Return the bound of one window, beside what who came first reaches."""
    listed = window(*days)
    gpus = sized(listed, days[1] - days[0], LOAD)
    reached = play(listed, Yard(gpus), Came(), lambda *_: None)
    reached_h = round(float(waits_h(reached)[-1]), 1)
    where = f"days {days[0]} to {days[1]}, {gpus} accelerators, load {LOAD}"
    bound_h = round(least_h(listed, gpus), 1)
    return Row(f"{where}: no rule's longest wait is less", bound_h, "h",
               peer="came first", peer_value=reached_h)  # fmt: skip


if __name__ == "__main__":
    write("waits_least", [row(days) for days in WINDOWS])
