"""Which engine that was ready is given up: one that hangs, never one that is only busy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.planning.health.engines import MUTE_BUSY_S, MUTE_S, STUCK_S, hung_reason
from madang.planning.snapshot import Pulse
from madang.testing.builders import model, node, service, snapshot
from madang.testing.paper import Paper

SECONDS = st.floats(0, 3600)


def serving(scale: int = 1) -> Paper:
    paper = Paper(snapshot(node("n", cards=4), model(), service(scale=scale)))
    paper.settle()
    return paper


def feel(paper: Paper, pulse: Pulse) -> str:
    """Let the first replica have this pulse; return its phase after a turn."""
    replica = paper.replicas("bot")[0]
    pulses = {(replica.uid, replica.status.epoch): pulse}
    paper.snapshot = replace(paper.snapshot, seen=replace(paper.snapshot.seen, pulses=pulses))
    paper.turn()
    return str(paper.replicas("bot")[0].status.phase)


@pytest.mark.parametrize(
    ("pulse", "code"),
    [
        (Pulse(misses=3, mute_s=30, idle_s=30), "replica.hung"),
        (Pulse(misses=3, mute_s=600), "replica.hung"),
        (Pulse(quiet_s=120, idle_s=120), "replica.hung"),
        (Pulse(misses=2, mute_s=10, halted=True), "replica.halted"),
        (Pulse(strange=3, detail="HTTP 401"), "replica.wrong-identity"),
    ],
)
def test_what_hangs_is_replaced_with_the_cause_named(pulse: Pulse, code: str) -> None:
    paper = serving()
    assert feel(paper, pulse) == "backing-off"
    reason = paper.replicas("bot")[0].status.reason
    assert reason is not None
    assert reason.code == code
    paper.settle()
    after = paper.replicas("bot")[0].status
    assert (str(after.phase), after.epoch) == ("ready", 2)


@pytest.mark.parametrize(
    "pulse",
    [
        Pulse(misses=99, mute_s=599, idle_s=0),  # every thread busy, all of them with work
        Pulse(misses=0, mute_s=4, idle_s=3600),  # nothing to do
        Pulse(misses=2, mute_s=3600, idle_s=3600),  # not asked, rather than not answering
        Pulse(misses=1, mute_s=9, idle_s=9, halted=True),  # somebody looks at it with a debugger
        Pulse(quiet_s=3000, idle_s=0),  # a very long prompt
        Pulse(strange=2, detail="x"),
    ],
)
def test_what_is_busy_idle_or_unasked_is_left_alone(pulse: Pulse) -> None:
    assert feel(serving(), pulse) == "ready"


@given(st.integers(0, 1000), SECONDS, SECONDS, st.floats(0, 29))
def test_no_engine_that_works_and_is_heard_of_is_ever_given_up(
    misses: int, mute_s: float, quiet_s: float, idle_s: float
) -> None:
    """Used the processor within 30 s, and somebody heard of it within ten minutes."""
    mute_s = min(mute_s, MUTE_BUSY_S - 1)
    assert hung_reason(Pulse(misses, mute_s, idle_s, quiet_s=quiet_s)) is None


@given(st.integers(3, 1000), st.floats(MUTE_S, 3600), st.floats(MUTE_S, 3600), SECONDS)
def test_whatever_neither_answers_nor_works_is_given_up(
    misses: int, mute_s: float, idle_s: float, quiet_s: float
) -> None:
    assert hung_reason(Pulse(misses, mute_s, idle_s, quiet_s=quiet_s)) is not None
    assert hung_reason(Pulse(0, 0.0, STUCK_S + idle_s, quiet_s=STUCK_S + quiet_s)) is not None


def test_nothing_is_given_up_on_a_node_that_cannot_be_seen() -> None:
    paper = serving()
    paper.lose("n")
    assert feel(paper, Pulse(misses=99, mute_s=999, idle_s=999)) == "ready"


def test_a_kill_by_signal_9_is_told_as_what_it_most_likely_is() -> None:
    paper = serving()
    paper.kill(paper.replicas("bot")[0].uid, exit_code=-9)
    paper.turn()
    reason = paper.replicas("bot")[0].status.reason
    assert reason is not None
    assert reason.code == "replica.out-of-memory"
