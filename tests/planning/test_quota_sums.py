"""What counts for a quota, by how much and since when; and what is told and tried where it bars."""

from __future__ import annotations

from typing import Any

import pytest
from tests.planning.test_quotas import HOUR_S, a_job, change, on, told

from madang.planning.explain import explain
from madang.planning.quotas import Books, Limit, storage_limit
from madang.resources.month import month_of
from madang.resources.place import Accelerator
from madang.resources.quota import Quota
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import AnyResource, Ref
from madang.resources.volume import Volume, VolumeSpec, VolumeStatus
from madang.testing.builders import PROJECT, job, model, node, pool, quota, service, snapshot
from madang.testing.paper import Paper

PRICE = pool(price_krw_per_hour={"nvidia": 1000})
BEGUN = month_of(1_800_000_000.0).begins
HOST = 256 * 10**9
"""Bytes of a node's own memory."""


def used(paper: Paper, what: str = "krw", place: str = PROJECT) -> int:
    """Return how much of a limit is used, in thousandths."""
    books = Books(paper.snapshot)
    (found,) = (each for each in books.limits[place] if each.what == what)
    return books.used(found)


@pytest.mark.parametrize(("limit", "needs", "run"), [
    ({"cores": 4}, {"cores": 3}, 1), ({"cores": 4}, {"cores": 2}, 2),
    ({"memory": "8GB"}, {"host_memory": "5GB"}, 1), ({"memory": "8GB"}, {"host_memory": "4GB"}, 2),
    ({"memory": "20GB"}, {"accelerator": "cpu", "memory": "12GB"}, 1),
    ({"memory": "20GB"}, {"memory": "40GB"}, 2),
    ({"cores": 0, "accelerators": {"rebellions": 0}}, {}, 2),
    ({"krw_per_month": 0}, {}, 0), ({"krw_per_month": 0}, {"accelerator": "cpu"}, 2),
])  # fmt: skip
def test_what_runs_counts_for_what_it_has_and_for_nothing_else(
    limit: dict[str, Any], needs: dict[str, Any], run: int
) -> None:
    """Memory of accelerators is no node's memory; nothing waits for what it asks nothing of."""
    box = node("box", kind="cpu", memory_gb=64, shared=True)
    paper = Paper(snapshot(PRICE, node("one", cards=4), box, quota(**limit)))
    for name in ("a", "b"):
        paper.put(job(name, needs={"accelerator": "nvidia", "memory": "1GB", **needs}))
        paper.settle()
    assert len(on(paper)) == run


@pytest.mark.parametrize("limit", [
    {"accelerators": {"nvidia": 3}}, {"cores": 4}, {"memory": "8GB"},
])  # fmt: skip
def test_a_gang_asks_for_what_it_takes_on_all_its_nodes(limit: dict[str, Any]) -> None:
    hardware = [node(name, cards=2) for name in ("one", "two")]
    paper = Paper(snapshot(*hardware, quota(**limit)))
    needs = {"accelerator": "nvidia", "count": 2, "cores": 3, "host_memory": "5GB"}
    paper.put(job("gang", needs=needs, nodes=2))
    paper.settle()
    assert not on(paper)
    change(paper, accelerators={"nvidia": 4}, cores=6, memory="10GB")
    paper.settle()
    assert on(paper) == {"gang"}


def test_accelerators_that_are_given_only_together_count_together() -> None:
    quad = [
        each.model_copy(update={"spec": each.spec.model_copy(update={"group": "g"})})
        if isinstance(each, Accelerator) else each
        for each in node("npu", cards=4, kind="rebellions/atom-max")
    ]  # fmt: skip
    paper = Paper(snapshot(quad, quota(accelerators={"rebellions": 3})))
    paper.put(job("a", needs={"accelerator": "rebellions", "count": 3}))
    paper.settle()
    assert told(paper, "a")[1]["asked"] == 4


def test_what_has_an_accelerator_for_itself_alone_counts_for_all_of_it() -> None:
    cards = node("one", cards=4, shared=True)
    paper = Paper(snapshot(cards, model(), quota(accelerators={"nvidia": 2})))
    needs = {"accelerator": "nvidia", "memory": "20GB", "guarantee": "isolated"}
    paper.put(service("bot", scale=3, needs=needs))
    paper.settle()
    phases = [replica.status.phase for replica in paper.replicas("bot")]
    assert sorted(phases) == [ReplicaPhase.READY, ReplicaPhase.READY, ReplicaPhase.WAITING]


@pytest.mark.parametrize(("limits", "fix"), [
    ([quota(accelerators={"nvidia": 0})], "quota.fix-raise"),
    ([quota(accelerators={"nvidia": 0}), quota("acme", accelerators={"nvidia": 1})],
     "quota.fix-raise-all"),
    ([quota(accelerators={"nvidia": 0}, cores=0)], "quota.fix-raise-all"),
    ([quota(accelerators={"nvidia": 0}, krw_per_month=1)], "quota.fix-raise-all"),
])  # fmt: skip
def test_to_raise_a_limit_is_a_fix_alone_only_where_no_other_one_bars(
    limits: list[Quota], fix: str
) -> None:
    """Another of the same place, what others of its organization have, or money that is spent."""
    paper = Paper(snapshot(PRICE, node("one", cards=4), now=BEGUN + HOUR_S))
    paper.put(a_job("other", project="acme/other"))
    paper.settle()
    paper.put(*limits)
    for each in paper.snapshot.quotas.values():
        paper.put(each.with_status(month=month_of(paper.now).number, mkrw=1000))
    paper.put(job("a", needs={"accelerator": "nvidia", "cores": 1}, created_at=paper.now))
    paper.settle()
    assert told(paper, "a")[2] == fix


@pytest.mark.parametrize(("limit", "spec", "values"), [
    ({"accelerators": {"nvidia": 9}}, {"count": 4, "nodes": 3}, {"nodes": 2}),
    ({"accelerators": {"nvidia": 3}}, {"count": 4, "nodes": 1}, {"count": 3}),
    ({"cores": 6}, {"count": 1, "nodes": 2, "cores": 8}, {"cores": 3}),
])  # fmt: skip
def test_the_most_that_would_start_within_a_quota_is_the_smallest_fix(
    limit: dict[str, Any], spec: dict[str, Any], values: dict[str, float]
) -> None:
    paper = Paper(snapshot(*(node(name, cards=4) for name in ("a", "b", "c")), quota(**limit)))
    needs = {"accelerator": "nvidia", **{k: v for k, v in spec.items() if k != "nodes"}}
    paper.put(job("a", needs=needs, nodes=spec["nodes"]))
    paper.settle()
    (waits,) = paper.snapshot.jobs.values()
    assert waits.status.smallest_fix
    assert waits.status.smallest_fix.values == values


def test_what_runs_is_paid_for_since_the_month_began_and_since_the_quota_is_there() -> None:
    paper = Paper(snapshot(PRICE, node("one"), a_job("a"), now=BEGUN - HOUR_S))
    paper.settle()
    paper.wait(BEGUN + HOUR_S - paper.now)
    paper.put(quota(krw_per_month=10_000))
    assert used(paper) == 1_000_000, "one hour of this month"
    (limit,) = paper.snapshot.quotas.values()
    paper.put(limit.model_copy(update={"created_at": BEGUN + HOUR_S / 2}))
    assert used(paper) == 500_000


def test_what_was_spent_in_an_earlier_month_is_over_with_it() -> None:
    early = {"month": month_of(BEGUN - 1).number, "mkrw": 10_000_000}
    limit = quota(krw_per_month=10_000).with_status(**early)
    paper = Paper(snapshot(PRICE, node("one"), limit, a_job("a"), now=BEGUN))
    paper.settle()
    assert on(paper) == {"a"}
    begun = paper.attempts("a")[0].status.started_at
    paper.wait(HOUR_S)
    paper.tell(paper.attempts("a")[0], 0, exit_code=0, ended_at=paper.now, pid=0)
    paper.settle()
    (kept,) = paper.snapshot.quotas.values()
    assert kept.status.month == month_of(BEGUN).number
    assert kept.status.mkrw == pytest.approx((paper.now - begun) / HOUR_S * 10**6, rel=0.05)


def test_what_lets_go_is_paid_for_once_however_long_that_takes() -> None:
    """An order to stop is lost: what it holds is charged with the intent, and no more then."""
    paper = Paper(snapshot(PRICE, node("one"), model(), quota(krw_per_month=10**6), now=BEGUN))
    paper.put(service("bot", needs={"accelerator": "nvidia"}))
    paper.settle()
    paper.wait(HOUR_S)
    (replica,) = paper.replicas("bot")
    paper.deaf.add(replica.uid)
    (bot,) = paper.snapshot.services.values()
    paper.put(bot.model_copy(update={"deleted_at": paper.now}))
    for _ in range(5):
        paper.turn()
    before = used(paper)
    assert before == pytest.approx(10**6, rel=0.05)
    for _ in range(20):
        paper.wait(60.0)
        paper.turn()
    assert paper.replicas("bot")[0].status.accelerators, "it still has it"
    assert used(paper) == before


def test_a_clock_that_is_set_back_gives_no_money_back() -> None:
    paper = Paper(snapshot(PRICE, node("one"), quota(krw_per_month=100), now=BEGUN + HOUR_S))
    paper.put(a_job("a"))
    paper.settle()
    paper.leap(-HOUR_S / 2)
    assert used(paper) == 0


def test_control_looks_again_when_money_is_spent_and_when_a_month_begins() -> None:
    paper = Paper(snapshot(PRICE, node("one"), quota(krw_per_month=100), now=BEGUN + HOUR_S))
    paper.put(a_job("a"))
    paper.settle(1.0)
    began = paper.attempts("a")[0].status.started_at
    assert paper.intend().wake_s == pytest.approx(began + 0.1 * HOUR_S - paper.now, abs=0.01)
    spent = Paper(snapshot(quota(krw_per_month=100), now=month_of(BEGUN).ends - 100))
    assert spent.intend().wake_s == 100


def a_volume(project: str, used_bytes: int, **spec: object) -> Volume:
    return Volume(
        project=project, name="v", uid=f"volume-{project}", spec=VolumeSpec.model_validate(spec),
        status=VolumeStatus(used_bytes=used_bytes),
    )  # fmt: skip


@pytest.mark.parametrize(("volumes", "more", "is_full"), [
    ([a_volume(PROJECT, 600, size="600B")], 400, False),
    ([a_volume(PROJECT, 600, size="600B")], 401, True),
    ([a_volume(PROJECT, 9, size="600B")], 401, True),
    ([a_volume(PROJECT, 600)], 401, True),
    ([a_volume("acme/other", 600)], 401, False),
    ([a_volume(PROJECT, 1001)], 0, True),
])  # fmt: skip
def test_a_volume_counts_for_what_it_may_hold_or_else_for_what_it_does(
    volumes: list[AnyResource], more: int, is_full: bool
) -> None:
    world = snapshot(volumes, quota(storage="1000B"))
    assert (storage_limit(PROJECT, world, more) is not None) is is_full


def test_what_is_left_is_never_less_than_nothing() -> None:
    assert Limit(PROJECT, "cores", "", 1000, 3000).values["left"] == 0


def test_who_waits_for_a_quota_has_that_written_down_when_it_changes_and_only_then() -> None:
    """What others use of it meanwhile is told to whoever looks."""
    paper = Paper(snapshot(node("one", cards=4), quota(accelerators={"nvidia": 2})))
    paper.put(a_job("waits", 3))
    paper.settle()
    written = paper.snapshot.jobs[Ref(PROJECT, "waits")]
    paper.put(a_job("other", 1, created_at=1.0))
    paper.settle()
    assert on(paper) == {"other"}
    assert told(paper, "waits")[1]["used"] == 1
    assert paper.snapshot.jobs[written.ref].status.reason == written.status.reason
    change(paper, accelerators={"nvidia": 1})
    paper.settle()
    assert stored(paper, "most") == 1
    change(paper, accelerators={"nvidia": 4})
    change(paper, "acme", accelerators={"nvidia": 1})
    paper.settle()
    assert stored(paper, "place") == "acme"


def stored(paper: Paper, what: str) -> object:
    """Return a value of the reason that is written down."""
    reason = paper.snapshot.jobs[Ref(PROJECT, "waits")].status.reason
    return reason and reason.values[what]


def test_of_those_that_could_leave_for_a_quota_none_does_that_need_not() -> None:
    """The newest has one; who has three is enough by itself."""
    paper = Paper(snapshot(node("one", cards=4), quota(accelerators={"nvidia": 4})))
    paper.put(a_job("large", 3), a_job("new", 1, created_at=1.0))
    paper.settle()
    change(paper, accelerators={"nvidia": 1})
    paper.settle()
    assert on(paper) == {"new"}
    assert len(paper.attempts("new")) == 1, "it never left"


def test_who_is_about_to_leave_counts_for_both_limits_that_are_broken() -> None:
    jobs = [job(name, needs={"accelerator": "nvidia", "cores": 2}, created_at=float(at))
            for at, name in enumerate(("a", "b", "c"))]  # fmt: skip
    paper = Paper(snapshot(node("one", cards=4), *jobs, quota(cores=8)))
    paper.settle()
    change(paper, accelerators={"nvidia": 2}, cores=4)
    paper.settle()
    assert on(paper) == {"a", "b"}


def test_to_ask_for_less_is_told_only_where_that_would_start() -> None:
    others = a_job("others", 4, project="acme/other")
    paper = Paper(snapshot(node("one", cards=4), others, quota(accelerators={"nvidia": 1})))
    paper.settle()
    paper.put(a_job("a", 2, created_at=1.0))
    paper.settle()
    assert told(paper, "a")[0] == "quota.accelerators"
    assert told(paper, "a")[2] == ""


def test_a_quota_is_to_be_raised_by_whole_accelerators() -> None:
    paper = Paper(snapshot(node("one", cards=2, shared=True), quota(accelerators={"nvidia": 1})))
    for name, memory in (("a", "40GB"), ("b", "60GB")):
        paper.put(job(name, needs={"accelerator": "nvidia", "memory": memory}))
        paper.settle()
    (limit,) = paper.snapshot.quotas.values()
    waits = explain(paper.snapshot.jobs[Ref(PROJECT, "b")], paper.snapshot)
    assert waits.smallest_fix
    assert waits.smallest_fix.values == {
        "place": limit.project, "key": "accelerators", "most": "{nvidia: 2}",
            "was": "{nvidia: 1}",
    }  # fmt: skip
