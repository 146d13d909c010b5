"""Quotas: nothing starts beyond one; who must leave saves first; money begins anew each month."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from madang.planning.action import assume
from madang.planning.explain import explain
from madang.planning.memo import Memo
from madang.planning.plan import plan
from madang.planning.quotas import Books, Limit, counted
from madang.planning.snapshot import Snapshot
from madang.resources.attempt import Attempt, AttemptPhase, Outcome
from madang.resources.grant import GrantPhase
from madang.resources.job import Job, JobPhase
from madang.resources.month import month_of
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import Ref
from madang.testing.builders import PROJECT, grant, job, model, node, pool, quota, service, snapshot
from madang.testing.paper import Paper

pytestmark = pytest.mark.timeout(600)
LIVING = {AttemptPhase.STARTING, AttemptPhase.RUNNING}
HOUR_S = 3600.0


def a_job(name: str, count: int = 1, **spec: Any) -> Job:
    return job(name, needs={"accelerator": "nvidia", "count": count}, **spec)


def on(paper: Paper) -> set[str]:
    """Return the jobs that run."""
    attempts = paper.snapshot.attempts.values()
    return {a.spec.job for a in attempts if a.status.phase in LIVING}


def change(paper: Paper, place: str = PROJECT, **spec: object) -> None:
    """Set the limits of a place, as an operator does."""
    fresh = quota(place, **spec)
    known = paper.snapshot.quotas.get(fresh.ref)
    paper.put(known.model_copy(update={"spec": fresh.spec}) if known else fresh)


def told(paper: Paper, name: str) -> tuple[str, dict[str, object], str]:
    """Return why a job waits, with what values, and what would help."""
    found = explain(paper.snapshot.jobs[Ref(PROJECT, name)], paper.snapshot)
    assert found.reason is not None
    fix = found.smallest_fix
    return found.reason.code, dict(found.reason.values), fix.code if fix else ""


@pytest.mark.parametrize("place", [PROJECT, "acme"])
def test_what_a_quota_leaves_too_little_for_waits_and_says_so(place: str) -> None:
    paper = Paper(snapshot(node("one", cards=4), quota(place, accelerators={"nvidia": 3})))
    paper.put(a_job("first", 2))
    paper.settle()
    paper.put(a_job("second", 2, created_at=1.0))
    paper.settle()
    assert on(paper) == {"first"}
    code, values, fix = told(paper, "second")
    assert (code, fix) == ("quota.accelerators", "placement.fix-count")
    assert values["place"] == place
    assert [values[key] for key in ("most", "used", "left", "asked")] == [3, 2, 1, 2]
    (first,) = paper.attempts("first")
    for rank in (0, 1):
        paper.tell(first, rank, exit_code=0, ended_at=paper.now, pid=0)
    paper.settle()
    assert on(paper) == {"second"}


def test_who_waits_for_a_quota_holds_nobody_else_up_and_takes_nobodys_place() -> None:
    paper = Paper(snapshot(node("one", cards=2), quota(accelerators={"nvidia": 0})))
    paper.put(a_job("barred", 1))
    paper.put(a_job("other", 2, project="acme/other", created_at=1.0))
    paper.settle()
    assert on(paper) == {"other"}
    assert told(paper, "barred")[2] == "", "no quota helps while others have all there is"


def test_a_raised_quota_is_the_fix_and_helps() -> None:
    paper = Paper(snapshot(node("one", cards=2), quota(accelerators={"nvidia": 0})))
    paper.put(a_job("barred", 1))
    paper.settle()
    assert told(paper, "barred")[2] == "quota.fix-raise"
    change(paper, accelerators={"nvidia": 1})
    paper.settle()
    assert on(paper) == {"barred"}


def test_another_kind_is_taken_where_a_quota_bars_only_one() -> None:
    paper = Paper(
        snapshot(
            node("dear", cards=2), node("cheap", cards=2, kind="nvidia/l40s", memory_gb=48),
            quota(accelerators={"nvidia/h100": 0}),
        )
    )  # fmt: skip
    paper.put(a_job("a", 2))
    paper.settle()
    paper.put(a_job("b", 1, created_at=1.0))
    paper.settle()
    (attempt,) = paper.attempts("a")
    assert attempt.status.places[0].node == "cheap"
    code, values, _ = told(paper, "b")
    assert (code, values["fell_quota"], values["fell_busy"]) == ("placement.nowhere-whole", 1, 1)


@pytest.mark.parametrize(("limit", "needs", "code", "fix"), [
    ({"cores": 4}, {"cores": 6}, "quota.cores", "placement.fix-cores"),
    ({"memory": "8GB"}, {"host_memory": "12GB"}, "quota.memory", "placement.fix-host-memory"),
    ({"memory": "8GB"}, {"accelerator": "cpu", "memory": "12GB"}, "quota.memory",
     "quota.fix-raise"),
])  # fmt: skip
def test_processors_and_memory_are_limited_too(
    limit: dict[str, Any], needs: dict[str, object], code: str, fix: str
) -> None:
    box = node("box", kind="cpu", memory_gb=64, shared=True)
    paper = Paper(snapshot(node("one", cards=4), box, quota(**limit)))
    paper.put(job("a", needs={"accelerator": "nvidia", **needs}))
    paper.settle()
    assert (told(paper, "a")[0], told(paper, "a")[2]) == (code, fix)


def test_parts_of_an_accelerator_count_as_parts() -> None:
    paper = Paper(snapshot(node("one", shared=True), quota(accelerators={"nvidia": 1})))
    for name in ("a", "b", "c"):
        needs = {"accelerator": "nvidia", "memory": "40GB"}
        paper.put(job(name, needs=needs, created_at=float(ord(name))))
    paper.settle()
    assert on(paper) == {"a", "b"}
    assert told(paper, "c")[1]["left"] == 0


def test_a_lowered_quota_has_the_newest_of_those_that_count_for_least_save_and_leave() -> None:
    jobs = [
        a_job("old", 1, priority="low"), a_job("new", 1, priority="low", created_at=5.0),
        a_job("dear", 1, priority="normal", created_at=9.0),
    ]  # fmt: skip
    paper = Paper(snapshot(node("one", cards=4), model(), *jobs, quota(accelerators={"nvidia": 4})))
    paper.put(service("bot", needs={"accelerator": "nvidia"}))
    paper.settle()
    assert on(paper) == {"old", "new", "dear"}
    (newest,) = paper.attempts("new")
    paper.tell(newest, 0, step=7)
    change(paper, accelerators={"nvidia": 3})
    paper.settle()
    assert on(paper) == {"old", "dear"}
    status = paper.attempts("new")[0].status
    assert status.outcome is Outcome.PREEMPTED
    assert status.cause
    assert status.cause.code == "quota.over-accelerators"
    assert paper.snapshot.jobs[Ref(PROJECT, "new")].status.phase is JobPhase.WAITING
    (replica,) = paper.replicas("bot")
    assert replica.status.phase is ReplicaPhase.READY


def test_services_leave_only_where_all_jobs_are_not_enough_and_come_back() -> None:
    paper = Paper(snapshot(node("one", cards=4), model(), a_job("a"), quota()))
    paper.put(service("bot", scale=2, needs={"accelerator": "nvidia"}))
    paper.settle()
    change(paper, accelerators={"nvidia": 1})
    paper.settle()
    assert on(paper) == set()
    phases = sorted(replica.status.phase for replica in paper.replicas("bot"))
    assert phases == [ReplicaPhase.READY, ReplicaPhase.WAITING]
    change(paper, accelerators={"nvidia": 2})
    paper.settle()
    assert {r.status.phase for r in paper.replicas("bot")} == {ReplicaPhase.READY}


def test_money_is_counted_by_the_month_and_begins_anew_with_it() -> None:
    """Two accelerators at 1,000 KRW an hour, of 10,000 KRW: spent after five hours."""
    start = month_of(1_800_000_000.0).ends - 100 * HOUR_S
    world = snapshot(
        node("one", cards=4), pool(price_krw_per_hour={"nvidia": 1000}),
        quota(krw_per_month=10_000), now=start,
    )  # fmt: skip
    paper = Paper(world)
    paper.put(a_job("a", 2))
    paper.settle()
    (first,) = paper.attempts("a")
    paper.tell(first, 0, step=3)
    paper.wait(4.9 * HOUR_S)
    assert on(paper) == {"a"}
    paper.wait(0.2 * HOUR_S)
    paper.settle()
    assert on(paper) == set()
    code, values, fix = told(paper, "a")
    assert (code, fix) == ("quota.krw", "quota.fix-raise")
    assert values["resets"] == month_of(start).day_after
    assert 10_000 <= float(str(values["used"])) < 10_600, "no more than it takes to save"
    (kept,) = paper.snapshot.quotas.values()
    assert kept.status.mkrw >= 10_000_000, "what has let go is written down"
    paper.wait(95 * HOUR_S)
    paper.settle()
    assert on(paper) == {"a"}
    limits = Books(paper.snapshot)
    assert limits.now(limits.limits[PROJECT][0]).used < 1_000_000


def test_what_is_spent_begins_anew_at_midnight_in_seoul_and_not_a_second_before() -> None:
    midnight = datetime(2026, 11, 30, 15, tzinfo=UTC).timestamp()  # 2026-12-01 00:00 in Seoul
    paper = Paper(snapshot(
        node("one", cards=2), pool(price_krw_per_hour={"nvidia": 1000}),
        quota(krw_per_month=1000), now=midnight - 10 * HOUR_S,
    ))  # fmt: skip
    paper.put(a_job("a"))
    paper.settle()
    paper.tell(paper.attempts("a")[0], 0, step=3)
    paper.wait(1.1 * HOUR_S)
    paper.settle()
    assert on(paper) == set()
    assert told(paper, "a")[1]["resets"] == "2026-12-01"
    paper.wait(midnight - 1.0 - paper.now)
    paper.turn()
    assert on(paper) == set()
    paper.wait(1.0)
    paper.turn()
    assert on(paper) == {"a"}


def test_where_several_limits_bar_all_of_them_are_to_be_raised_and_together_that_helps() -> None:
    paper = Paper(snapshot(
        node("one", cards=4), quota("acme", accelerators={"nvidia": 1}, cores=2),
        quota(accelerators={"nvidia/h100": 1}),
    ))  # fmt: skip
    paper.put(a_job("a"))
    paper.settle()
    paper.put(job("b", needs={"accelerator": "nvidia", "cores": 3}, created_at=1.0))
    paper.settle()
    assert told(paper, "b")[::2] == ("quota.accelerators", "quota.fix-raise-all")
    fix = explain(paper.snapshot.jobs[Ref(PROJECT, "b")], paper.snapshot).smallest_fix
    assert fix
    assert fix.values["limits"] == (
        "quota/acme/lab: accelerators: {nvidia/h100: 2}; "
        "quota/acme: accelerators: {nvidia: 2}; quota/acme: cores: 3"
    )
    change(paper, PROJECT, accelerators={"nvidia/h100": 2})
    change(paper, "acme", accelerators={"nvidia": 2}, cores=2)
    paper.settle()
    assert on(paper) == {"a"}, "not all of them"
    change(paper, "acme", accelerators={"nvidia": 2}, cores=3)
    paper.settle()
    assert on(paper) == {"a", "b"}


def test_a_quota_tells_what_is_left_of_each_limit_and_who_waits_for_it() -> None:
    paper = Paper(snapshot(node("one", cards=2), quota(accelerators={"nvidia": 1}, storage="1GB")))
    paper.put(a_job("a"))
    paper.settle()
    paper.put(a_job("b", created_at=1.0), a_job("c", project="acme/other"))
    paper.settle()
    (limits,) = paper.snapshot.quotas.values()
    found = explain(limits, paper.snapshot)
    assert found.reason
    assert (found.reason.code, found.reason.values["waiting"]) == ("quota.holds", 1)
    assert [each.subject for each in found.because] == ["job/b"]
    left = [(each.values["key"], each.values["left"]) for each in found.findings]
    assert left == [("accelerators nvidia", 0.0), ("storage", "1GB")]


def test_a_service_pays_too_and_each_thing_once() -> None:
    start = month_of(1_800_000_000.0).begins + HOUR_S
    paper = Paper(
        snapshot(
            node("one", cards=4), model(), pool(price_krw_per_hour={"nvidia/h100": 1000}),
            quota(krw_per_month=10**6), now=start,
        )
    )  # fmt: skip
    paper.put(service("bot", needs={"accelerator": "nvidia"}))
    paper.settle()
    begun = paper.replicas("bot")[0].status.held_since
    paper.wait(2 * HOUR_S)
    (running,) = paper.snapshot.services.values()
    paper.put(running.model_copy(update={"deleted_at": paper.now}))
    ended = paper.now
    paper.settle()
    assert paper.replicas("bot") == []
    (kept,) = paper.snapshot.quotas.values()
    owed = (ended - begun) / HOUR_S * 1_000_000
    assert owed - 1 <= kept.status.mkrw <= owed + 20_000
    paper.wait(HOUR_S)
    assert paper.snapshot.quotas[kept.ref].status.mkrw == kept.status.mkrw


def recounted(world: Snapshot, limit: Limit) -> int:
    """Return what a place has of a limit, of money what it has of anything that has a price."""
    found = 0
    own = [*world.replicas.values(), *world.living]
    for each in (one for one in own if f"{one.project}/".startswith(f"{limit.place}/")):
        places = each.status.places if isinstance(each, Attempt) else [each.status]
        for held in (place for place in places if place.accelerators):
            found += round(1000 * held.cores) if limit.what == "cores" else 0
            for name in held.accelerators if limit.what != "cores" else ():
                card = world.accelerators[Ref("", name)].spec
                whole = held.whole or not card.shared
                part = 1000 if whole else -(-1000 * held.memory_bytes // card.memory_bytes)
                found += part * card.accelerator.startswith(limit.kind)
    return found


def allowed(world: Snapshot, limit: Limit) -> int:
    """Return what a place may have of a limit: as its quota says, and grants by their days."""
    if limit.what != "accelerators":
        return limit.most
    spec = world.quotas[Ref(limit.place, limit.place.rpartition("/")[2])].spec
    given = [
        each.status.count for each in world.grants.values()
        if f"{each.project}/".startswith(f"{limit.place}/")
        and each.spec.accelerator.startswith(limit.kind) and each.begins <= world.now < each.ends
    ]  # fmt: skip
    return 1000 * (spec.accelerators[limit.kind] + sum(given))


def taken_over(world: Snapshot, limit: Limit) -> int:
    """Return the most that one has from whom somebody takes over who has something as well."""
    has = [r for r in world.replicas.values() if r.status.accelerators]
    found = [0]
    for old in has:
        newest = world.services[old.service].status.revision
        for new in (r for r in has if r.service == old.service):
            if old.name == new.spec.replaces or (
                new.spec.revision == newest != old.spec.revision
            ):  # fmt: skip
                alone = replace(world, kept={**world.kept, "replica": {old.ref: old}})
                alone.kept.pop("attempt", None)
                found.append(recounted(alone, limit))
    return max(found)


class World(RuleBasedStateMachine):
    """People submit, serve, revise and change quotas, and empty nodes.

    Nothing that is planned is ever above a quota, but for one that is taken over from at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paper = Paper(snapshot(
            node("one", cards=2), node("two", cards=2, kind="nvidia/l40s", memory_gb=48),
            node("part", shared=True), model(), pool(price_krw_per_hour={"nvidia": 900}),
            quota("acme", accelerators={"nvidia": 3}, cores=6),
            quota("acme/lab", accelerators={"nvidia": 1}),
        ))  # fmt: skip
        self.made = 0

    @rule(project=st.sampled_from(["acme/lab", "acme/other", "beta/one"]), many=st.integers(1, 3),
          count=st.integers(1, 2), nodes=st.integers(1, 2), cores=st.integers(0, 4),
          part=st.booleans(), priority=st.sampled_from(["low", "normal"]))  # fmt: skip
    def submit(self, project: str, many: int, **spec: Any) -> None:
        for _ in range(many):
            if len(self.paper.snapshot.open_jobs) > 5:
                return
            self.made += 1
            self.paper.put(self.a_job(project, **spec))

    def a_job(
        self, project: str, count: int, nodes: int, cores: int, part: bool, priority: str
    ) -> Job:
        size = {"memory": "30GB"} if part else {}
        needs = {"accelerator": "nvidia", "count": count, "cores": cores, **size}
        return job(f"job-{self.made}", project=project, needs=needs, nodes=nodes,
                   priority=priority, created_at=self.paper.now)  # fmt: skip

    @rule(name=st.sampled_from(["bot", "talk"]), scale=st.integers(0, 3),
          throughput=st.sampled_from([1.0, 2.0]), count=st.integers(1, 2))  # fmt: skip
    def serve(self, name: str, scale: int, throughput: float, count: int) -> None:
        needs = {"accelerator": "nvidia", "count": count}
        wanted = service(name, scale=scale, throughput=throughput, needs=needs)
        known = self.paper.snapshot.services.get(wanted.ref)
        if known is None:
            self.paper.put(wanted)
        elif known.spec != wanted.spec:
            again = {"spec": wanted.spec, "generation": known.generation + 1}
            self.paper.put(known.model_copy(update=again))

    @rule(place=st.sampled_from(["acme", "acme/lab", "beta"]),
          kind=st.sampled_from(["nvidia", "nvidia/h100"]), count=st.integers(0, 4),
          cores=st.sampled_from([None, 0, 4, 8]), krw=st.sampled_from([None, 0, 2000]))  # fmt: skip
    def limit(self, place: str, kind: str, count: int, cores: int | None, krw: int | None) -> None:
        change(
            self.paper, place, accelerators={kind: count}, cores=cores, krw_per_month=krw
        )  # fmt: skip

    @rule(project=st.sampled_from(["acme/lab", "acme/other"]), count=st.integers(1, 2),
          kind=st.sampled_from(["nvidia", "nvidia/h100"]), days=st.integers(1, 2))  # fmt: skip
    def give(self, project: str, kind: str, count: int, days: int) -> None:
        self.made += 1
        begins = 1 + int((self.paper.now + 9 * HOUR_S) // (24 * HOUR_S))
        one = grant(
            f"grant-{self.made}", project=project, accelerator=kind, count=count,
            **{"from": f"1970-01-{begins:02}", "until": f"1970-01-{begins + days:02}"},
        )  # fmt: skip
        self.paper.put(one.with_status(phase=GrantPhase.REVIEWED, count=count))

    @rule(name=st.sampled_from(["one", "two"]), is_emptied=st.booleans())
    def empty(self, name: str, is_emptied: bool) -> None:
        known = self.paper.snapshot.nodes[Ref("", name)]
        changed = known.spec.model_copy(update={"drain": is_emptied})
        self.paper.put(known.model_copy(update={"spec": changed}))

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        living = [a for a in self.paper.snapshot.living if a.status.phase in LIVING]
        if living:
            attempt = data.draw(st.sampled_from(living))
            for rank in range(4):
                self.paper.tell(attempt, rank, exit_code=0, ended_at=self.paper.now, pid=0)

    @rule(seconds=st.sampled_from([1.0, 60.0, 3600.0, 86_400.0]))
    def wait(self, seconds: float) -> None:
        self.paper.wait(seconds)

    @rule()
    def turn(self) -> None:
        self.paper.turn()

    @invariant()
    def no_plan_gives_more_than_a_quota_leaves_whatever_the_order_and_the_memo(self) -> None:
        """Of each limit is used no more than it allows, or no more than before."""
        now = self.paper.snapshot
        planned = plan(now, self.paper.memo)
        after = assume(now, planned)
        books = Books(after)
        for limit in (each for limits in books.limits.values() for each in limits):
            had, has = recounted(now, limit), recounted(after, limit)
            if limit.what != "krw":
                assert counted(books._used[limit.place], limit) == has
            is_open = limit.what == "krw" and books.used(limit) < limit.most
            most = 0 if limit.what == "krw" else allowed(after, limit)
            assert is_open or has <= max(most + taken_over(after, limit), had)
        turned = {k: dict(reversed(list(v.items()))) for k, v in reversed(list(now.kept.items()))}
        assert plan(replace(now, kept=turned), Memo()) == planned
        assert plan(after, self.paper.memo).actions == (), "at once there is nothing more to plan"

    def teardown(self) -> None:
        """Left alone, all that stays is within what it may have."""
        self.paper.settle()
        now = self.paper.snapshot
        books = Books(now)
        for limit in (each for limits in books.limits.values() for each in limits):
            has = recounted(now, limit)
            is_open = limit.what == "krw" and books.used(limit) < limit.most
            assert is_open or has <= (0 if limit.what == "krw" else allowed(now, limit))


TestWorld = pytest.mark.thorough(World.TestCase)
TestWorld.settings = settings(
    max_examples=16, stateful_step_count=20, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate],
)  # fmt: skip
"""Always the same worlds; one that fails is told as it is, for making it small takes minutes."""
