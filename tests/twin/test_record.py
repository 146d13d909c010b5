"""A record: the twin plans as control did, byte for byte, from nothing but the record's text."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from madang import forms
from madang.control import loop
from madang.errors import Corrupt, Rejected
from madang.planning.action import Plan, Verb, assume
from madang.planning.plan import plan
from madang.planning.snapshot import Probed, Pulse, Seen, Snapshot
from madang.resources.kinds import KINDS
from madang.resources.resource import Reason, Ref
from madang.resources.revision import Build, BuildSpec, BuildStatus, Check, Verdict
from madang.supervisor.protocol import Process
from madang.testing.builders import PROJECT, model, node, service, snapshot
from madang.testing.paper import Paper
from madang.testing.simulation.run import storm
from madang.twin.form import canonical, plain, shaped
from madang.twin.record import Record, bare, packed, planned_kinds, read, replay, sealed

STEPS = 300
SEEDS = (11, 12)


def recorded(text: str) -> Record:
    return read(text.encode(), "file")


def again(value: Any, hint: Any) -> Any:
    """Write a value and read it."""
    return shaped(hint, json.loads(canonical(value)))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", SEEDS)
def test_control_and_the_twin_make_the_same_plan_of_the_same_snapshot(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control's real loop, through a storm of faults; the twin has a text and no more."""
    turns: list[tuple[Snapshot, Plan]] = []

    def watched(now: Snapshot, memo: Any) -> Plan:
        made = plan(now, memo)
        turns.append((now, made))
        return made

    monkeypatch.setattr(loop, "plan", watched)
    assert not storm(seed, STEPS).violations
    busy = [turn for turn in turns if turn[1].actions]
    verbs = {action.verb for _, made in busy for action in made.actions}
    assert {Verb.START_REPLICA, Verb.BACK_OFF_REPLICA, Verb.STATUS_NODE} <= verbs
    for now, made in busy:
        record = recorded(Record.of(now).text())
        assert canonical(record.plan) == canonical(without_lines(made))
        assert replay(record) is None


FLEET = {"nvidia/h100": 80, "nvidia/a100": 40, "nvidia/l40s": 48, "cpu": 64}


def test_the_twin_remembers_nothing_and_plans_as_control_that_has_planned_all_day() -> None:
    """On a mixed fleet: what a warm memo has learnt must not show in any plan."""
    chance = random.Random(7)
    nodes = [
        node(f"{kind.rpartition('/')[2]}-{i}", cards=1 if kind == "cpu" else 4, kind=kind,
             memory_gb=memory, shared=kind == "cpu")
        for kind, memory in FLEET.items() for i in range(2)
    ]  # fmt: skip
    paper = Paper(snapshot(*nodes, model()))
    turns = 0
    for number in range(60):
        memory = f"{chance.choice((8, 30, 45, 70))}GB"
        needs = {"accelerator": chance.choice(("", "nvidia")), "memory": memory}
        wanted = service(f"s{number % 9}", scale=chance.randrange(5), needs=needs)
        known = paper.snapshot.services.get(wanted.ref)
        if known is None:
            paper.put(wanted)
        else:
            again = {"spec": wanted.spec, "generation": known.generation + 1}
            paper.put(known.model_copy(update=again))
        if paper.snapshot.seen.processes and chance.random() < 0.3:
            paper.kill(chance.choice(sorted(paper.snapshot.seen.processes)))
        now = paper.snapshot
        made = paper.turn()
        if made.actions:
            turns += 1
            assert canonical(recorded(Record.of(now).text()).plan) == canonical(without_lines(made))
        paper.wait(chance.choice((1.0, 5.0)))
    assert turns > 40


def without_lines(made: Plan) -> Any:
    """Return a plan as JSON without what engines printed, which no record holds."""
    body = plain(made)
    for action in body["actions"]:
        for written in (action["subject"], *action["writes"], *action["gone"]):
            if written["kind"] == "replica":
                written["status"]["last_lines"] = []
            if written["kind"] == "build":
                for check in written["status"]["checks"]:
                    check["detail"] = "" if check["passed"] else check["detail"]
    return body


def world() -> Snapshot:
    """Something of everything that a snapshot may hold."""
    paper = Paper(snapshot(node("a", cards=2), node("b"), model(), service(scale=2)))
    paper.settle()
    paper.kill(paper.replicas("bot")[0].uid)
    now = paper.snapshot
    key = (paper.replicas("bot")[0].uid, 1)
    seen = replace(
        now.seen, pulses={key: Pulse(misses=2, detail="odd")}, routed=None, inflight={key[0]: 3},
        refused={("replica-x", 2): Reason(code="x", values={"n": 1, "f": 0.5, "t": "1"})},
        probed={**now.seen.probed, ("replica-y", 1): Probed(healthy=False, detail="who")},
    )  # fmt: skip
    return replace(now, seen=seen)


def test_a_snapshot_and_a_plan_are_the_same_once_they_were_written_and_read() -> None:
    now = world()
    made = plan(now)
    assert made.actions
    assert again(now, Snapshot) == now
    assert again(made, Plan) == made
    assert again(assume(now, made), Snapshot) == assume(now, made)


def test_the_text_does_not_depend_on_the_order_in_which_things_came() -> None:
    now = world()
    turned = {k: dict(reversed(list(v.items()))) for k, v in reversed(list(now.kept.items()))}
    assert Record.of(now).text() == Record.of(replace(now, kept=turned)).text()


@dataclass(frozen=True)
class Outlook:
    """A field that planning might have one day."""

    counts: tuple[tuple[Ref, int], ...] = ()
    prices: Mapping[tuple[int, ...], NDArray[np.float64]] = field(default_factory=dict)
    reserve: Mapping[str, frozenset[str]] | None = None


def test_a_new_field_needs_no_new_code() -> None:
    more = make_dataclass("More", [("outlook", Outlook, Outlook())], frozen=True)
    prices = {(1, 2): np.array([0.5, 1])}
    told = more(Outlook(((Ref("a/b", "c"), 2),), prices, {"x": frozenset("ba")}))
    back = again(told, more)
    assert canonical(back) == canonical(told)
    assert back.outlook.counts == told.outlook.counts
    assert back.outlook.prices[1, 2].dtype == np.float64
    assert shaped(more, {}) == more(), "one that an older Madang did not write has its default"


SECRETS = (
    "mdg_secret",
    "what people asked",
    "s3://key@bucket",
    "sha-of-a-key",
    "kim",
    "Kim's site",
)


def test_nothing_is_in_it_but_what_planning_sees() -> None:
    """Everything that a home may hold, each with a word that must not be found."""
    secret, asked, source, digest, user, title = SECRETS
    now = world()
    one = next(iter(now.replicas.values())).with_status(last_lines=(asked,))
    weights = next(iter(now.models.values()))
    version = weights.status.versions[0].model_copy(update={"source": source})
    weights = weights.model_copy(
        update={"spec": weights.spec.model_copy(update={"source": source}),
                "status": weights.status.model_copy(update={"versions": (version,)})}
    )  # fmt: skip
    build = Build(
        project=PROJECT, name="b", uid="build-b",
        spec=BuildSpec(digest="d", engine="e", engine_version="1", accelerator="cpu", recipe="e",
                       gate=("smoke",)),
        status=BuildStatus(verdict=Verdict.PASSED, checks=(
            Check(name="smoke.answers", passed=True, seconds=0, detail=asked),)),
    )  # fmt: skip
    others = [
        KINDS[kind].model_validate({"project": place, "name": name, "uid": kind, **parts})
        for kind, place, name, parts in (
            ("organization", "acme", "acme", {"spec": {"title": user}, "status": {}}),
            ("project", PROJECT, "lab", {"spec": {"title": user}, "status": {}}),
            ("user", "acme", user, {"spec": {"title": user}, "status": {}}),
            ("key", PROJECT, "k", {"status": {}, "spec": {
                "role": "member", "digest": digest, "home": PROJECT, "where": PROJECT}}),
            ("site", "", "seoul", {"spec": {"title": title}, "status": {}}),
        )
    ]  # fmt: skip
    now = now.after([one, weights, build, *others])
    announced = {"url": "http://127.0.0.1:9", "token": secret}
    processes = {
        uid: Process(uid, 1, "running", announced=announced) for uid in (one.uid, "gateway")
    }
    seen = replace(now.seen, processes=processes, lines={one.uid: (asked,)})
    text = Record.of(replace(now, seen=seen)).text()
    assert [word for word in SECRETS if word in text] == []
    assert "gateway" not in text
    kinds = set(json.loads(text)["snapshot"]["kept"])
    assert kinds == {"node", "accelerator", "model", "service", "revision", "replica", "build",
                     "endpoint", "site", "project", "queue"}  # fmt: skip
    assert planned_kinds() & {"key", "user", "organization"} == set()
    assert bare(bare(now)) == bare(now)


def test_a_record_that_is_torn_changed_or_none_is_refused_by_name() -> None:
    whole = Record.of(world()).text().encode()
    small = packed(whole)
    assert recorded(whole.decode()) == read(small, "file")
    assert len(small) < len(whole) / 4
    assert packed(whole) == small
    for torn in (
        whole[:-1], whole[:100], small[:-3], small[:40], whole.replace(b'"now":', b'"now":1'),
        whole.replace(b"tiny", b"tony"), small[:60] + b"?" + small[61:],
    ):  # fmt: skip
        with pytest.raises(Rejected) as refused:
            read(torn, "file")
        assert refused.value.code == "twin.torn-record", torn[:50]
    for other in (b"", b"sn,cpu_milli\n", b"[]", b'{"a":1}', b"\x1f", b"\xff\xfe", b"3"):
        with pytest.raises(Rejected) as refused:
            read(other, "file")
        assert refused.value.code == "twin.no-record", other


def resealed(change: Any) -> bytes:
    """Return a record that somebody has written otherwise, its digest right."""
    body = json.loads(Record.of(world()).text())
    del body["sha256"]
    change(body)
    return json.dumps(sealed(body)).encode()


def test_one_of_a_newer_madang_is_refused_and_one_of_an_older_is_read() -> None:
    with pytest.raises(Corrupt) as refused:
        read(resealed(lambda body: body.update(form=forms.KNOWN + 1)), "file")
    assert refused.value.code == "file.newer"
    for change in (
        lambda body: body["snapshot"].update(unknown=1),
        lambda body: body["snapshot"]["kept"]["node"][0]["spec"].update(unknown=1),
        lambda body: body["snapshot"]["seen"].update(nodes=3),
        lambda body: body.pop("plan"),
    ):
        with pytest.raises(Corrupt) as refused:
            read(resealed(change), "file")
        assert refused.value.code == "twin.other-record"
    older = read(resealed(lambda body: body["snapshot"]["seen"].pop("inflight")), "file")
    assert older.snapshot.seen.inflight == Seen().inflight


def test_the_first_difference_is_named_by_its_place() -> None:
    record = Record.of(world())
    verbs = [action["verb"] for action in record.plan["actions"]]
    number = verbs.index("replica.backed-off")
    record.plan["actions"][number]["reason"]["values"]["signal"] = 15
    found = replay(record)
    assert found is not None
    assert (found.where, found.recorded) == (f"actions[{number}].reason.values.signal", 15)
    assert found.replayed == 9 or found.replayed is None
    record.plan["actions"] = record.plan["actions"][:-1]
    found = replay(Record(record.snapshot, {**record.plan, "actions": []}, "0"))
    assert found is not None
    assert (found.where, found.recorded) == ("actions[0]", None)
