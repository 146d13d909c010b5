"""Accelerators fall ill as chance has it, on a virtual clock, and what was promised of them holds.

To see one again: MADANG_SEED=7 pytest tests/simulation/test_ill_accelerators.py
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from madang.planning.action import Verb
from madang.planning.health.fencing import FENCED_WINDOW_S, fenced_max
from madang.planning.health.xids import XIDS, Level
from madang.planning.snapshot import LOST
from madang.resources.attempt import AttemptPhase
from madang.resources.place import AcceleratorPhase
from madang.resources.replica import ReplicaPhase
from madang.testing.builders import job, model, node, service, snapshot
from madang.testing.paper import Paper

SEEDS = [int(os.environ["MADANG_SEED"])] if "MADANG_SEED" in os.environ else list(range(40))
STEPS, NODES, CARDS = 60, 4, 5
FATAL = [number for number, known in XIDS.items() if known.level is Level.FATAL]
OWN_FAULT = [number for number, known in XIDS.items() if known.level is Level.OK]
P = AcceleratorPhase
STARTS = {Verb.START_REPLICA, Verb.START_ATTEMPT}


class Ward:
    """A pool in which accelerators fall ill, and what is known to be due."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.names = [f"n{i}-{k}" for i in range(NODES) for k in range(CARDS)]
        self.paper = Paper(snapshot(
            *(node(f"n{i}", cards=CARDS) for i in range(NODES)), model(),
            service("bot", scale=3, needs={"memory": "40GB"}),
            job("train", needs={"accelerator": "nvidia", "count": 2}),
        ))  # fmt: skip
        self.paper.settle()
        self.broken: dict[str, float] = {}
        """When each was told to be, of those that are not fenced yet."""
        self.never = set(self.names)
        """Those that never showed anything but a program's own error."""
        self.fenced_at: dict[str, list[float]] = {}

    def fall_ill(self) -> None:
        """Let something happen, or nothing."""
        name, what = self.chance.choice(self.names), self.chance.random()
        if what < 0.15:
            self.paper.log(name, self.chance.choice(FATAL))
            found = next(a for a in self.paper.snapshot.accelerators.values() if a.name == name)
            if found.status.phase not in LOST:
                self.broken.setdefault(name, self.paper.now)
            self.never.discard(name)
        elif what < 0.5:
            self.paper.log(name, self.chance.choice(OWN_FAULT))
        elif what < 0.6:
            self.paper.show(name, is_hot=self.chance.random() < 0.5)
            self.never.discard(name)

    def turn(self) -> None:
        """Let control turn, and see whether what it does is what was promised."""
        before = {r.name: r.status.phase for r in self.paper.snapshot.accelerators.values()}
        planned = self.paper.turn()
        for action in planned.actions:
            if action.verb in {Verb.FENCE_ACCELERATOR, Verb.QUARANTINE_ACCELERATOR}:
                self.fenced_at.setdefault(action.subject.name, []).append(self.paper.now)
                self.broken.pop(action.subject.name, None)
        now = {r.name: r.status.phase for r in self.paper.snapshot.accelerators.values()}
        for action in planned.actions:
            for name in self._placed(action) if action.verb in STARTS else ():
                assert P.OK in (before[name], now[name]), f"{name} was {now[name]}"
                assert now[name] is P.OK
        self._bound()

    def _placed(self, action: object) -> list[str]:
        writes = [r.status for r in action.writes]  # type: ignore[attr-defined]
        held = [status for status in writes if hasattr(status, "accelerators")]
        held += [place for status in writes for place in getattr(status, "places", ())]
        return [name for each in held for name in each.accelerators]

    def _bound(self) -> None:
        since = self.paper.now - FENCED_WINDOW_S
        lately = sum(at > since for times in self.fenced_at.values() for at in times)
        limit = fenced_max("default", self.paper.snapshot)
        assert lately <= limit, "a storm is frozen"
        for name, at in self.broken.items():
            found = next(a for a in self.paper.snapshot.accelerators.values() if a.name == name)
            in_time = self.paper.now - at <= 10
            assert in_time or found.status.phase in {P.SUSPECT, P.FENCED, P.QUARANTINED}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_promised_of_ill_accelerators_holds(seed: int) -> None:
    ward = Ward(seed)
    for _ in range(STEPS):
        ward.fall_ill()
        ward.turn()
        ward.paper.wait(ward.chance.choice((1.0, 2.0, 5.0, 30.0)))
        ward.turn()
    phases = {a.name: a.status.phase for a in ward.paper.snapshot.accelerators.values()}
    assert {phases[name] for name in ward.never} <= {P.OK}, "no program's error does anything"
    ward.paper.settle(120)
    usable = Counter(phases.values())[P.OK]
    running = [r for r in ward.paper.replicas("bot") if r.status.phase is ReplicaPhase.READY]
    if usable >= 3 + 2 + 2:
        assert len(running) == 3, "all that ran goes on elsewhere"
    for attempt in ward.paper.attempts("train"):
        lost = {n for p in attempt.status.places for n in p.accelerators
                if phases.get(n) in {P.FENCED, P.QUARANTINED}}  # fmt: skip
        assert not lost or attempt.status.phase is not AttemptPhase.RUNNING
