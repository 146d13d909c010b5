"""Which replica is chosen: by load, in turn, and around those that fail."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from madang.testing.examples import examples
from madang.traffic.limits import Limits
from madang.traffic.prompt import Prompt
from madang.traffic.route import Router
from madang.traffic.table import Target

LIMITS = Limits(out_s=1, out_s_max=8, slot_requests_max=100)
SUSPICIOUS = Limits(suspect_s=5, slot_requests_max=100)


def target(uid, slots=1, epoch=1):
    return Target(uid, epoch, f"http://{uid}", "t", slots)


A, B, C = target("a"), target("b"), target("c")


def test_equal_replicas_take_turns_in_the_order_of_their_uids():
    router = Router(LIMITS)
    chosen = []
    for _ in range(6):
        got = router.take([C, A, B], 0)
        router.give_back(got, 0)
        chosen.append(got.uid)
    assert sorted(chosen[:3]) == ["a", "b", "c"]
    assert chosen[:3] == chosen[3:]


def test_two_routers_that_saw_the_same_choose_the_same():
    one, other = Router(LIMITS), Router(LIMITS)
    assert [one.take([A, B, C], 0).uid for _ in range(9)] == [
        other.take([C, B, A], 0).uid for _ in range(9)
    ]


def test_load_counts_per_slot():
    router = Router(LIMITS)
    wide = target("wide", slots=3)
    chosen = [router.take([A, wide], 0).uid for _ in range(8)]
    assert chosen.count("wide") == 6
    assert router.inflight == {"wide": 6, "a": 2}


def test_a_failing_replica_is_left_alone_then_tried_by_one_request():
    router = Router(LIMITS)
    router.blame(A, now=0)
    assert router.take([A], 0.9) is None
    assert router.wait_s([A], 0.9) == 1 - 0.9
    assert router.take([A], 1.0) is A
    assert router.take([A], 1.0) is None
    router.praise(A)
    router.give_back(A, 0)
    assert router.take([A], 1.0) is A


def test_a_trial_that_nobody_finished_frees_the_way_for_the_next():
    router = Router(LIMITS)
    router.blame(A, now=0)
    router.give_back(router.take([A], 1), 0)
    assert router.take([A], 1) is A


def test_failing_again_and_again_doubles_the_pause_up_to_its_bound():
    router = Router(LIMITS)
    pauses = []
    for _ in range(6):
        router.blame(A, now=0)
        pauses.append(router.wait_s([A], 0))
    assert pauses == [1, 2, 4, 8, 8, 8]


def test_a_replica_placed_anew_starts_with_a_clean_record():
    router = Router(LIMITS)
    router.blame(A, now=0)
    assert router.take([target("a", epoch=2)], 0) is not None


def test_failures_of_what_left_the_table_are_forgotten():
    router = Router(LIMITS)
    router.blame(A, now=0)
    router.blame(B, now=0)
    router.keep([B])
    assert router.take([A], 0) is A
    assert router.take([B], 0) is None


def test_one_replica_can_be_left_out():
    router = Router(LIMITS)
    assert router.take([A], 0, without="a") is None
    assert {router.take([A, B], 0, without="a").uid for _ in range(4)} == {"b"}


class Routing(RuleBasedStateMachine):
    """Any order of takes, ends, failures and time passing."""

    def __init__(self):
        super().__init__()
        self.router = Router(LIMITS)
        self.fleet = [target("a", 1), target("b", 2), target("c", 4)]
        self.taken = []
        self.now = 0.0

    @rule()
    def take(self):
        got = self.router.take(self.fleet, self.now)
        if got:
            self.taken.append(got)

    @precondition(lambda self: self.taken)
    @rule(well=st.sampled_from(["well", "badly", "neither"]), data=st.data())
    def finish(self, well, data):
        got = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        if well == "well":
            self.router.praise(got)
        if well == "badly":
            self.router.blame(got, self.now)
        self.router.give_back(got, 0)

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def every_request_is_counted_once(self):
        assert sum(self.router.inflight.values()) == len(self.taken)

    @invariant()
    def a_quiet_fleet_is_always_usable_again(self):
        if not self.taken:
            later = self.now + LIMITS.out_s_max
            got = self.router.take(self.fleet, later)
            assert got is not None
            self.router.give_back(got, 0)


TestRouting = Routing.TestCase
TestRouting.settings = settings(TestRouting.settings, max_examples=examples(100))


def test_whoever_lets_requests_wait_without_a_byte_is_asked_only_if_no_other_can_be():
    router = Router(SUSPICIOUS)
    asked = Prompt()
    assert router.take([A, B], 0, "b", asked) is A
    assert {router.take([A, B], 5).uid for _ in range(4)} == {"b"}
    assert router.silent(5) == {"a": 5, "b": 0}
    assert router.take([A], 6) is A, "busy or hung: better than nobody"
    router.hear(asked, 7)
    assert "a" in {router.take([A, B], 8).uid for _ in range(4)}


def test_clients_that_give_up_early_do_not_make_a_silent_replica_look_alive():
    router = Router(SUSPICIOUS)
    for now in range(0, 60, 10):
        assert router.take([A], now) is A
        router.give_back(A, now + 1)
    assert router.silent(60) == {}, "nobody waits"
    assert router.take([A], 60) is A
    assert router.silent(60) == {"a": 6}
    assert router.take([A, B], 60).uid == "b"


def test_a_silent_replica_without_requests_is_tried_by_one():
    router = Router(SUSPICIOUS)
    router.take([A], 0)
    router.give_back(A, 9)
    assert router.take([A, B], 10).uid == "a" or router.take([A, B], 10).uid == "a"
    assert {router.take([A, B], 10).uid for _ in range(4)} == {"b"}
