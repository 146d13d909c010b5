"""What each project was entitled to, and went short of, of late."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

from madang.planning.share.line import Floats
from madang.planning.share.rule import RULE, Rule

LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Shares:
    """What projects can use, may have and do have at one time, in accelerators."""

    demand: Floats
    entitled: Floats
    held: Floats


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A job that leaves the line without having run."""

    project: int
    size: float
    waited_s: float
    each: float
    """Of its project's ledger, when it came."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Accelerator-seconds by project; what is long past counts for less and less."""

    short: Floats
    entitled: Floats
    each: Floats
    """What went short for each accelerator that its waiting jobs asked for."""

    @classmethod
    def blank(cls, projects: int) -> Ledger:
        """Return that of projects of which nothing is known."""
        return cls(np.zeros(projects), np.zeros(projects), np.zeros(projects))

    def after(self, seconds: float, now: Shares, rule: Rule = RULE) -> Ledger:
        """Return it after a time in which all stayed so."""
        kept = _kept(seconds, rule)
        weight_s = (1.0 - kept) * rule.half_life_s / log(2.0)
        lacked = np.maximum(0.0, now.entitled - now.held)
        each = lacked / np.maximum(now.demand - now.held, 1.0)
        return Ledger(
            self.short * kept + lacked * weight_s,
            self.entitled * kept + now.entitled * weight_s,
            self.each * kept + each * weight_s,
        )

    def without(self, job: Withdrawn, rule: Rule = RULE) -> Ledger:
        """Return it after a job was withdrawn that never ran: nothing was lost by its waiting.

        So nobody gains by queueing work that is not meant to run.
        """
        since = self.each[job.project] - job.each * _kept(job.waited_s, rule)
        short = self.short.copy()
        short[job.project] = max(0.0, short[job.project] - job.size * since)
        return Ledger(short, self.entitled, self.each)

    def shortfall(self) -> Floats:
        """Return by project which part of its entitlement it went short of: 0 to 1."""
        return self.short / np.maximum(self.entitled, LEAST)

    def guarantees(self, entitled: Floats, rule: Rule = RULE) -> Floats:
        """Return what each must get now: nothing while it lacks little, all at its budget."""
        left = (rule.budget - self.shortfall()) / rule.budget
        return entitled * (1.0 - np.clip(2.0 * left, 0.0, 1.0))


def _kept(seconds: float, rule: Rule) -> float:
    kept: float = 0.5 ** (seconds / rule.half_life_s)
    return kept
