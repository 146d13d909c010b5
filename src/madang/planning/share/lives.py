"""How long jobs run, learnt from jobs that ran: nobody is asked, and nothing to come is read.

Jobs of one project and like size are taken to be alike. Of each such group is counted how many
reached an age and how many ended at it, those that still run among the former; a group of which
little is known is taken to be as all are. Of this follows, for a job of any age, the best it could
do with more time: the chance that it ends, by the time that takes (Gittins 1979; for jobs that are
preempted, Aalto, Ayesta and Righter 2009).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from madang.planning.share.line import Floats, Ints, Line

EDGES_S = np.concatenate([[0.0], 60.0 * 2.0 ** (np.arange(48) / 3)])
"""Where ages begin: a third of a doubling apart, the last after a month."""
AGES = len(EDGES_S)
WIDTHS_S = np.append(np.diff(EDGES_S), EDGES_S[-1] / 4)
SIZES = np.array([1, 4, 8])
"""The largest gang of each class of size; above is another."""
CLASSES = len(SIZES) + 1
ALIKE = 20.0
"""A group counts for as much as what is known of all once so many of it reached an age."""
MOST = 0.95
"""The surest that a job is ever taken to end."""


@dataclass(frozen=True, slots=True)
class Lives:
    """Jobs that ended, counted by group and the age they reached."""

    ended: Ints
    """[groups, ages]"""

    @classmethod
    def blank(cls, projects: int) -> Lives:
        """Return that of projects of which nothing is known."""
        return cls(np.zeros((projects * CLASSES, AGES), np.int64))

    def after(self, project: int, size: int, ran_s: float) -> Lives:
        """Return these after a job of so many accelerators ended, having run so long."""
        ended = self.ended.copy()
        ended[groups(np.array([project]), np.array([size])), ages(np.array([ran_s]))] += 1
        return Lives(ended)

    def worth(self, line: Line) -> Floats:
        """Return what a second given is worth by group and age, from these and those that live.

        [groups, ages], in chances to end per second.
        """
        return _best(self.hazard(line))

    def hazard(self, line: Line) -> Floats:
        """Return how sure a job that reached an age is to end at it, by group and age."""
        living = np.zeros_like(self.ended)
        np.add.at(living, (groups(line.project, line.size), ages(line.ran_s)), 1)
        reached = (self.ended + living)[:, ::-1].cumsum(axis=1)[:, ::-1]
        common = (self.ended.sum(axis=0) + 0.1) / (reached.sum(axis=0) + 1.0)
        found: Floats = np.minimum(MOST, (self.ended + ALIKE * common) / (reached + ALIKE))
        return found


def _best(hazard: Floats) -> Floats:
    """Return the most that any further time brings: the chance to end by it over what it takes."""
    survive = np.ones_like(hazard)
    spent = np.zeros_like(hazard)
    best = np.zeros_like(hazard)
    for ahead in range(hazard.shape[1]):
        here = np.full_like(hazard, np.nan)
        here[:, : AGES - ahead] = hazard[:, ahead:]
        width = np.full(AGES, np.nan)
        width[: AGES - ahead] = WIDTHS_S[ahead:]
        spent += survive * width * (1.0 - here / 2.0)
        survive *= 1.0 - here
        np.fmax(best, (1.0 - survive) / spent, out=best)
    return best


def groups(project: Ints, size: Ints) -> Ints:
    """Return the group of each job."""
    found: Ints = project * CLASSES + np.searchsorted(SIZES, size)
    return found


def ages(ran_s: Floats) -> Ints:
    """Return the age that each job has reached."""
    return np.searchsorted(EDGES_S, ran_s, side="right") - 1
