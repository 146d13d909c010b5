"""What every store promises: one suite, run over each of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from madang.errors import Conflict, Forbidden, Unavailable, Value
from madang.ports import Store, UsageTotal, Write
from madang.resources.event import Event
from madang.resources.place import Accelerator, AcceleratorSpec, AcceleratorStatus
from madang.resources.replica import Replica, ReplicaPhase, ReplicaSpec, ReplicaStatus
from madang.resources.resource import AnyResource, Reason
from madang.resources.rights import CONTROL, SETUP, Principal, Role
from madang.resources.service import Needs, Service, ServiceSpec, ServiceStatus
from madang.settings import Home
from madang.stores.postgres import PostgresStore
from madang.stores.sqlite import SqliteStore
from madang.testing.memory import MemoryStore, Shelf
from madang.testing.postgres import PostgresServer
from madang.traffic.table import Usage

MakeStore = Callable[[Path], Store]


@pytest.fixture(params=["sqlite", "postgres", "memory"])
def make(request: pytest.FixtureRequest) -> MakeStore:
    """Give a store for a folder: the same one for the same folder."""
    if request.param == "sqlite":
        return lambda path: SqliteStore(Home(path))
    if request.param == "memory":
        shelf = cache(lambda _path: Shelf())
        return lambda path: MemoryStore(shelf(path))
    server: PostgresServer = request.getfixturevalue("postgres")
    database = cache(lambda _path: server.make_database())
    return lambda path: PostgresStore(Home(path), server.url(database(path)), hold_wait_s=0.2)


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(make: MakeStore, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(make(tmp_path / "home")) as ready:
        yield ready


def service(name: str = "bot", uid: str = "u1", project: str = "org/team", **more: Any) -> Service:
    spec = more.pop("spec", ServiceSpec(model="qwen"))
    return Service(project=project, name=name, uid=uid, spec=spec, status=ServiceStatus(), **more)


def everything_of_a_service() -> Service:
    spec = ServiceSpec(model="q@2", needs=Needs(memory=10**18), scale=3)
    return service("민원봇", created_at=12.5, deleted_at=13.25, generation=7, spec=spec)


def everything_of_a_replica() -> Replica:
    status = ReplicaStatus(
        phase=ReplicaPhase.BACKING_OFF,
        accelerators=("a", "b"),
        reason=Reason(code="x", values={"n": 1, "f": 1.0, "t": "\0"}),
        last_lines=("마지막",),
        next_try=4.5,
    )
    spec = ReplicaSpec(service="s", revision="v")
    return Replica(project="org/team", name="r-1", uid="r", spec=spec, status=status)


def unbounded_accelerator() -> Accelerator:
    attributes: dict[str, Value] = {"share": math.inf, "whole": 1, "real": 1.0}
    spec = AcceleratorSpec(
        node="n", accelerator="cpu", memory_bytes=2**60, shared=True, attributes=attributes
    )
    return Accelerator(name="cpu0", uid="c", spec=spec, status=AcceleratorStatus())


def event(name: str = "bot", project: str = "org/team", at: float = 1.0) -> Event:
    return Event(
        at=at, actor="key/a", code="service.made", kind="service", project=project, name=name,
        values={"count": 2, "why": "요청", "share": 0.5},
    )  # fmt: skip


def usage(number: int) -> Usage:
    return Usage(
        id=f"r{number}", at=1.5, key="k", project="org/team", endpoint="bot", replica="u",
        prompt_tokens=1, cached_tokens=0, output_tokens=2, status=200, duration_s=0.25,
    )  # fmt: skip


async def put(store: Store, *resources: AnyResource) -> list[Any]:
    return list(await store.commit(CONTROL, [Write(each) for each in resources]))


async def state(store: Store) -> dict[tuple[str, str], int]:
    _, living = await store.load(CONTROL)
    return {(each.project, each.name): each.resource_version for each in living}


async def test_a_new_store_is_empty_at_revision_zero(store: Store) -> None:
    assert await store.load(CONTROL) == (0, [])
    assert list(await store.changes(CONTROL, 0)) == []
    assert list(await store.events(CONTROL)) == []


async def test_everything_of_a_resource_comes_back(make: MakeStore, tmp_path: Path) -> None:
    given = (everything_of_a_service(), everything_of_a_replica(), unbounded_accelerator())
    async with opened(make(tmp_path)) as store:
        stored = await put(store, *given)
    async with opened(make(tmp_path)) as store:
        revision, loaded = await store.load(CONTROL)
    assert list(loaded) == stored
    assert [each.model_copy(update={"resource_version": 0}) for each in loaded] == list(given)
    assert revision == stored[0].resource_version
    types = [type(value) for value in cast("Accelerator", loaded[2]).spec.attributes.values()]
    assert types == [float, int, float]


async def test_one_commit_has_one_version_and_later_ones_are_higher(store: Store) -> None:
    first = await put(store, service("a", "1"), service("b", "2"))
    second = await put(store, service("c", "3"))
    assert first[0].resource_version == first[1].resource_version > 0
    assert second[0].resource_version > first[0].resource_version


async def test_a_write_planned_from_an_older_version_is_refused(store: Store) -> None:
    (stored,) = await put(store, service())
    (newer,) = await put(store, stored.model_copy(update={"generation": 2}))
    with pytest.raises(Conflict) as refused:
        await put(store, stored.model_copy(update={"generation": 3}))
    assert refused.value.code == "store.stale"
    assert await state(store) == {("org/team", "bot"): newer.resource_version}


async def test_an_update_of_something_never_stored_is_refused(store: Store) -> None:
    with pytest.raises(Conflict):
        await put(store, service(resource_version=1))
    with pytest.raises(Conflict):
        await store.commit(CONTROL, [Write(service(), gone=True)])
    assert await store.load(CONTROL) == (0, [])


async def test_a_version_is_no_key_to_another_uid(store: Store) -> None:
    (stored,) = await put(store, service(uid="mine"))
    with pytest.raises(Conflict):
        await put(store, stored.model_copy(update={"uid": "other"}))


async def test_a_living_name_is_taken_only_in_its_kind_and_project(store: Store) -> None:
    await put(store, service(uid="1"))
    with pytest.raises(Conflict) as refused:
        await put(store, service(uid="2"))
    assert refused.value.code == "store.name-taken"
    await put(store, service(uid="3", project="org/other"))
    assert len(await state(store)) == 2


async def test_a_name_is_free_again_once_it_is_gone(store: Store) -> None:
    (first,) = await put(store, service(uid="old"))
    replaced = [Write(first, gone=True), Write(service(uid="new"))]
    _, fresh = await store.commit(CONTROL, replaced)
    _, living = await store.load(CONTROL)
    assert [each.uid for each in living] == ["new"]
    fed = [(each.uid, gone) for each, gone in await store.changes(CONTROL, first.resource_version)]
    assert fed == [("old", True), ("new", False)]
    with pytest.raises(Conflict):
        await store.commit(CONTROL, [Write(first, gone=True)])
    assert await state(store) == {("org/team", "bot"): fresh.resource_version}


async def test_what_is_gone_cannot_be_written_again(store: Store) -> None:
    (stored,) = await put(store, service())
    (buried,) = await store.commit(CONTROL, [Write(stored, gone=True)])
    with pytest.raises(Conflict):
        await put(store, buried)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_one_failing_guard_undoes_the_whole_commit(store: Store, place: int) -> None:
    before = await put(store, service("kept", "k"))
    writes = [service("a", "1"), service("b", "2")]
    writes.insert(place, service("stale", "s", resource_version=9))
    with pytest.raises(Conflict):
        await store.commit(CONTROL, [Write(each) for each in writes], [event()])
    assert await store.load(CONTROL) == (before[0].resource_version, before)
    assert list(await store.events(CONTROL)) == []


async def test_the_same_resource_twice_in_one_commit_is_refused(store: Store) -> None:
    with pytest.raises(Conflict):
        await put(store, service(uid="1"), service(uid="2"))
    (stored,) = await put(store, service(uid="1"))
    with pytest.raises(Conflict):
        await put(store, stored, stored)


async def test_events_are_numbered_in_order_and_kept_with_their_change(store: Store) -> None:
    await store.commit(CONTROL, [Write(service())], [event("a"), event("b")])
    await store.commit(CONTROL, [], [event("c", project="org/other")])
    found = list(await store.events(CONTROL))
    assert [each.name for each in found] == ["a", "b", "c"]
    assert [each.seq for each in found] == sorted({each.seq for each in found})
    assert found[0].model_copy(update={"seq": 0}) == event("a")


async def test_events_are_paged_and_filtered_by_project(store: Store) -> None:
    await store.commit(
        CONTROL, [], [event(f"e{n}", project=("", "org/team")[n % 2]) for n in range(6)]
    )
    first = await store.events(CONTROL, limit=2)
    rest = await store.events(CONTROL, after=first[-1].seq)
    assert [each.name for each in (*first, *rest)] == [f"e{n}" for n in range(6)]
    own = await store.events(CONTROL, project="org/team")
    assert [each.name for each in own] == ["e1", "e3", "e5"]
    assert [each.name for each in await store.events(CONTROL, project="")] == ["e0", "e2", "e4"]


LAB = Principal(actor="key/a", role=Role.MEMBER, where="org/team", uid="k")
"""Somebody whose rights hold in one project."""


async def test_nobody_is_told_of_what_lies_elsewhere(store: Store) -> None:
    here, there = service(), service(project="org/other", uid="u2")
    beside = service(project="org/team2", uid="u3")
    told = [event(), event(project="org/other"), event(project="")]
    await store.commit(SETUP, [Write(each) for each in (here, there, beside)], told)
    await store.record_usage(CONTROL, [usage(1), msgspec.structs.replace(usage(2), project="x/y")])
    assert [r.uid for r in (await store.load(LAB))[1]] == ["u1"]
    assert [r.uid for r, _ in await store.changes(LAB, 0)] == ["u1"]
    assert {e.project for e in await store.events(LAB)} == {"org/team"}
    assert {r.project for r in await store.audit(LAB)} == {"org/team"}
    assert {t.project for t in await store.record_usage(LAB, [])} == {"org/team"}
    whole = LAB.model_copy(update={"where": "org"})
    assert {r.uid for r in (await store.load(whole))[1]} == {"u1", "u2", "u3"}


async def test_nobody_writes_elsewhere(store: Store) -> None:
    with pytest.raises(Forbidden):
        await store.commit(LAB, [Write(service()), Write(service(project="org/other", uid="u2"))])
    assert await state(store) == {}
    (made,) = await store.commit(SETUP, [Write(service(project="org/other"))])
    with pytest.raises(Forbidden):
        await store.commit(LAB, [Write(made, gone=True)])
    assert len(await state(store)) == 1


async def test_a_store_knows_itself_again_and_no_other(make: MakeStore, tmp_path: Path) -> None:
    store = make(tmp_path / "home")
    async with opened(store):
        first = store.id
    async with opened(make(tmp_path / "home")) as again:
        assert again.id == first != ""


async def test_the_feed_holds_the_newest_state_of_each_in_commit_order(store: Store) -> None:
    a, b = await put(store, service("a", "1"), service("b", "2"))
    (c,) = await put(store, service("c", "3"))
    (a,) = await put(store, a)
    (b,) = await store.commit(CONTROL, [Write(b, gone=True)])
    assert list(await store.changes(CONTROL, 0)) == [(c, False), (a, False), (b, True)]
    assert list(await store.changes(CONTROL, a.resource_version)) == [(b, True)]
    assert list(await store.changes(CONTROL, b.resource_version)) == []


async def test_a_page_of_the_feed_never_cuts_a_commit_in_two(store: Store) -> None:
    for batch in ("abc", "de", "f"):
        await put(store, *(service(letter, letter) for letter in batch))
    seen, after = [], 0
    while page := await store.changes(CONTROL, after, limit=2):
        seen.append("".join(each.name for each, _ in page))
        after = page[-1][0].resource_version
    assert seen == ["abc", "de", "f"]
    assert "".join(each.name for each, _ in await store.changes(CONTROL, 0, limit=5)) == "abcde"


async def test_the_term_is_higher_at_each_opening(make: MakeStore, tmp_path: Path) -> None:
    terms = []
    for _ in range(3):
        store = make(tmp_path)
        terms.append(await store.open())
        await store.close()
    assert terms[0] > 0
    assert terms == sorted(set(terms))


async def test_a_second_control_is_refused_until_the_first_lets_go(
    make: MakeStore, tmp_path: Path
) -> None:
    first, second = make(tmp_path), make(tmp_path)
    term = await first.open()
    with pytest.raises(Unavailable) as refused:
        await second.open()
    assert refused.value.code == "store.held"
    await put(first, service())
    await first.close()
    assert await second.open() == term + 1
    assert len(await state(second)) == 1
    await second.close()


async def test_a_closed_store_says_so(make: MakeStore, tmp_path: Path) -> None:
    store = make(tmp_path)
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(Unavailable, match=r"store\.closed"):
        await store.load(CONTROL)
    with pytest.raises(Unavailable, match=r"store\.closed"):
        await put(store, service())


async def test_versions_go_on_after_reopening(make: MakeStore, tmp_path: Path) -> None:
    async with opened(make(tmp_path)) as store:
        (stored,) = await put(store, service())
        (last,) = await store.commit(CONTROL, [Write(stored, gone=True)])
    async with opened(make(tmp_path)) as store:
        assert await store.load(CONTROL) == (last.resource_version, [])
        (next_one,) = await put(store, service(uid="u2"))
    assert next_one.resource_version > last.resource_version


async def test_commits_made_at_once_all_arrive_and_refusals_harm_nobody_else(store: Store) -> None:
    (contested,) = await put(store, service("contested", "c"))
    jobs = [put(store, service(f"s{n}", f"u{n}")) for n in range(40)]
    jobs[10:10] = [put(store, contested) for _ in range(5)]
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    refused = [each for each in outcomes if isinstance(each, BaseException)]
    assert [type(each) for each in refused] == [Conflict] * 4
    stored = [each[0] for each in outcomes if not isinstance(each, BaseException)]
    versions = [each.resource_version for each in stored]
    assert versions == sorted(set(versions)), "commits are stamped in the order they were asked"
    found = await state(store)
    assert {each.name: each.resource_version for each in stored} == {
        name: version for (_, name), version in found.items()
    }


async def test_a_commit_given_up_while_it_waits_is_whole_or_absent(store: Store) -> None:
    jobs = [asyncio.create_task(put(store, service(f"s{n}", f"u{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    for job in jobs[::2]:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    names = {name for _, name in await state(store)}
    assert {f"s{n}" for n in range(1, 20, 2)} <= names
    assert await put(store, service("after", "after"))


def requests(totals: Sequence[UsageTotal]) -> int:
    return sum(total.requests for total in totals)


async def test_usage_is_kept_once_per_id_and_added_up(make: MakeStore, tmp_path: Path) -> None:
    async with opened(make(tmp_path)) as store:
        assert requests(await store.record_usage(CONTROL, [usage(1), usage(2), usage(1)])) == 2
        assert requests(await store.record_usage(CONTROL, [usage(2), usage(3)])) == 3
        assert requests(await store.record_usage(CONTROL, [usage(n) for n in range(1200)])) == 1200
    async with opened(make(tmp_path)) as store:
        assert requests(await store.record_usage(CONTROL, [])) == 1200, "read from disk"
        (total,) = await store.record_usage(CONTROL, [usage(n) for n in range(1201)])
        assert total.requests == 1201
        assert total.output_tokens == 1201 * usage(0).output_tokens


class Model(RuleBasedStateMachine):
    """A store beside a plain dict, under the same orders."""

    make: MakeStore

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = self.root / str(next(self.serial))
        self.store = self.make(self.folder)
        self.term = self.run(self.store.open())
        self.living: dict[str, AnyResource] = {}
        self.told: list[str] = []
        self.fed: dict[str, AnyResource] = {}
        self.revision = self.seen = 0

    root: Path
    serial: Any

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @rule(orders=st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["new", "change", "stale", "gone"])),
        min_size=1, max_size=4,
    ))  # fmt: skip
    def commit(self, orders: list[tuple[str, str]]) -> None:
        writes, expected, valid = [], dict(self.living), True
        for name, order in orders:
            stored = expected.get(name)
            fine = (stored is None) if order == "new" else (stored is not None and order != "stale")
            # A second write in the same commit is planned from a version that is no longer there.
            valid = valid and fine and (stored is None or stored.resource_version != -1)
            writes.append(self.write(name, order))
            expected[name] = writes[-1].resource.model_copy(update={"resource_version": -1})
            if order == "gone":
                del expected[name]
        try:
            stored_now = self.run(self.store.commit(CONTROL, writes, [event(orders[0][0])]))
        except Conflict:
            assert not valid
            return
        assert valid
        version = stored_now[0].resource_version
        assert version > self.revision
        self.revision = version
        for each, done in zip(writes, stored_now, strict=True):
            assert done.resource_version == version
            if each.gone:
                self.living.pop(done.name)
            else:
                self.living[done.name] = done
        self.told.append(orders[0][0])

    def write(self, name: str, order: str) -> Write:
        stored = self.living.get(name)
        if order == "new" or stored is None:
            version = 0 if order == "new" else 7_000_000
            return Write(service(name, f"u{next(self.serial)}", resource_version=version))
        version = stored.resource_version - (order == "stale")
        changes = {"generation": stored.generation + 1, "resource_version": version}
        return Write(stored.model_copy(update=changes), gone=order == "gone")

    @rule(limit=st.integers(1, 5))
    def follow(self, limit: int) -> None:
        for each, gone in self.run(self.store.changes(CONTROL, self.seen, limit)):
            assert each.resource_version >= self.seen
            self.seen = each.resource_version
            if gone:
                if self.fed.get(each.name) and self.fed[each.name].uid == each.uid:
                    del self.fed[each.name]
            else:
                self.fed[each.name] = each

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.make(self.folder)
        term = self.run(self.store.open())
        assert term == self.term + 1
        self.term = term

    @invariant()
    def is_as_expected(self) -> None:
        revision, living = self.run(self.store.load(CONTROL))
        assert revision == self.revision
        assert {each.name: each for each in living} == self.living
        assert [each.name for each in self.run(self.store.events(CONTROL))] == self.told
        if self.seen == self.revision:
            assert self.fed == self.living

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()


EXAMPLES = {"memory": 40, "sqlite": 40, "postgres": 8}
"""Each example is a database of its own, and each step a way to another process and back."""


def test_any_sequence_of_orders_does_what_a_dict_would(
    make: MakeStore, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from itertools import count

    from hypothesis.stateful import run_state_machine_as_test

    product = request.node.callspec.params["make"]
    machine = type("Machine", (Model,), {
        "make": staticmethod(make), "root": tmp_path, "serial": count(),
    })  # fmt: skip
    limits = hypothesis_settings(
        max_examples=EXAMPLES[product], stateful_step_count=25, deadline=None, database=None
    )
    run_state_machine_as_test(machine, settings=limits)
