"""The constants of the queue, as one value. None was chosen for a single list of jobs."""

from __future__ import annotations

from dataclasses import dataclass

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """What the queue weighs. The budget is the one knob; the rest lies on plateaus."""

    budget: float = 0.13
    """Part of its entitlement that a project may go short of before all of it is guaranteed: less
    is fairer, more has jobs end sooner in the mean."""
    half_life_s: float = 7 * 24 * HOUR_S
    """So long until what a project went short of counts for half."""
    stay: float = 4.0
    """So many times more a job counts while it runs: nobody is chased to and fro."""
    unsaved: float = 30.0
    """So many times more, again, with a whole interval of work that is not saved."""
    aged_s: float = 96 * HOUR_S
    """Who has waited so long in all may be given room for it, before others worth more;"""
    aged_full_s: float = 120 * HOUR_S
    """the more of the pool the longer it waited, until here: so the longest wait is bounded, and
    what that costs the others is paid as late as can be."""
    aged_first: float = 0.15
    """The part of the pool that is so given to who came first of them,"""
    aged_worth: float = 0.75
    """and up to that which goes to those of them who are worth most. Not all: else all would wait
    as long."""
    crowd_from: float = 1.7
    """Where those behind the first of them ask for so many times the pool, age counts for less,
    since no rule could have all go in time;"""
    crowd_full: float = 1.8
    """and from here on for the first of all alone: the others go by what they are worth."""
    crowd_each: float = 4.0
    """No project counts for more than so many times its share: nobody's flood takes others' age."""
    patience_s: float = 1800.0
    """A job that saves so soon is asked to make room only then, if it would lose more than a turn's
    work now."""
    size_power: float = 0.75
    """How much a gang's size counts against it: 1 is per accelerator, 0 not at all."""
    every_s: float = 300.0
    """Between two times that jobs may be asked to make room."""
    relearn_s: float = HOUR_S
    """Between two times that what was learnt is put to use."""
    preempted_max: int = 3
    """Within an hour; then a job stays where it is."""


RULE = Rule()
