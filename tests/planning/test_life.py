"""The life of services and replicas, on paper: one sentence, one story."""

from __future__ import annotations

from dataclasses import replace

from madang.planning.action import Stop
from madang.planning.explain import explain
from madang.planning.plan import plan
from madang.planning.services.replicas import wake_s
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import Reason, Ref
from madang.resources.revision import RevisionPhase
from madang.resources.service import ServicePhase
from madang.resources.tenancy import Project, ProjectSpec, ProjectStatus
from madang.supervisor.protocol import Process
from madang.testing.builders import PROJECT, model, node, service, snapshot
from madang.testing.paper import Paper

BOT = Ref(PROJECT, "bot")


def phases(paper: Paper, name: str = "bot") -> list[str]:
    return [str(r.status.phase) for r in paper.replicas(name)]


def apply(paper: Paper, **spec: object) -> None:
    """Change the spec as people do."""
    old = paper.snapshot.services[BOT]
    changed = service(**spec).spec
    paper.put(old.model_copy(update={"spec": changed, "generation": old.generation + 1}))


def serving(*, scale: int = 1, nodes: int = 1, **spec: object) -> Paper:
    places = [node(f"n{i}", cards=4) for i in range(nodes)]
    paper = Paper(snapshot(model(), model("other"), service(scale=scale, **spec), *places))
    paper.settle()
    return paper


def test_a_service_comes_up_behind_its_gate_one_replica_first() -> None:
    paper = Paper(snapshot(node("n", cards=4), model(), service(scale=3)))
    paper.turn()
    assert phases(paper) == ["starting"]
    paper.settle()
    assert phases(paper) == ["ready"] * 3
    assert paper.snapshot.services[BOT].status.phase is ServicePhase.READY
    assert len(paper.snapshot.builds) == 1, "three replicas, one build, one gate"
    assert paper.snapshot.endpoints[BOT].spec.service == "bot"


def test_a_failing_gate_keeps_the_revision_out_and_says_which_check() -> None:
    paper = Paper(snapshot(node("n"), model(), service()), passes=False)
    paper.settle()
    status = paper.snapshot.services[BOT].status
    assert phases(paper) == ["failed"]
    assert status.phase is ServicePhase.FAILED
    assert status.reason is not None
    assert status.reason.values["check"] == "smoke.answers"
    assert not paper.replicas("bot")[0].status.accelerators, "a failed replica holds nothing"


def test_a_withdrawn_verdict_is_asked_for_again() -> None:
    paper = Paper(snapshot(node("n"), model(), service()), passes=False)
    paper.settle()
    paper.passes = True
    build = next(iter(paper.snapshot.builds.values()))
    paper.snapshot = paper.snapshot.after((), [build])
    paper.settle()
    assert phases(paper) == ["ready"]


def test_a_new_revision_takes_over_without_a_gap() -> None:
    paper = serving(scale=2, nodes=2)
    apply(paper, scale=2, model="other")
    for _ in range(60):
        paper.turn()
        assert phases(paper).count("ready") >= 2
        paper.wait(1.0)
    assert {r.spec.revision for r in paper.replicas("bot")} == {"bot-2"}
    assert paper.snapshot.revisions[Ref(PROJECT, "bot-1")].status.phase is RevisionPhase.RETIRED


def test_the_old_revision_serves_on_when_the_new_one_fails_its_gate() -> None:
    paper = serving(scale=2)
    paper.passes = False
    apply(paper, scale=2, model="other")
    paper.settle()
    ready = [r for r in paper.replicas("bot") if r.status.phase is ReplicaPhase.READY]
    assert {r.spec.revision for r in ready} == {"bot-1"}
    assert len(ready) == 2
    status = paper.snapshot.services[BOT].status
    assert status.phase is ServicePhase.DEGRADED
    assert status.reason is not None
    assert status.reason.code == "gate.failed"


def test_rescaling_makes_no_revision() -> None:
    paper = serving(scale=1)
    apply(paper, scale=3)
    paper.settle()
    assert phases(paper) == ["ready"] * 3
    assert len(paper.snapshot.revisions) == 1
    apply(paper, scale=0)
    paper.settle()
    assert phases(paper) == []


def test_a_dead_process_is_started_again_at_a_higher_epoch() -> None:
    paper = serving()
    before = paper.replicas("bot")[0]
    paper.kill(before.uid)
    paper.turn()
    assert phases(paper) == ["backing-off"]
    paper.settle()
    after = paper.replicas("bot")[0]
    assert after.status.phase is ReplicaPhase.READY
    assert after.status.epoch == before.status.epoch + 1


def test_a_crash_loop_ends_in_failed_with_the_cause_and_is_tried_again_later() -> None:
    paper = serving()
    seen = replace(paper.snapshot.seen, lines={paper.replicas("bot")[0].uid: ("out of memory",)})
    paper.snapshot = replace(paper.snapshot, seen=seen)
    for _ in range(200):
        replica = paper.replicas("bot")[0]
        running = paper.snapshot.seen.processes.get(replica.uid)
        if running and running.state == "running":
            paper.kill(replica.uid, exit_code=1)
        paper.turn()
        if replica.status.phase is ReplicaPhase.FAILED:
            break
        paper.wait(1.0)
    status = paper.replicas("bot")[0].status
    assert status.phase is ReplicaPhase.FAILED
    assert status.reason == Reason(code="replica.exited", values={"exit_code": 1})
    assert status.last_lines == ("out of memory",)
    paper.settle(seconds=700)
    assert phases(paper) == ["ready"]


def test_a_replica_that_serves_for_minutes_between_its_ends_is_never_given_up() -> None:
    paper = serving()
    for _ in range(20):
        paper.kill(paper.replicas("bot")[0].uid)
        paper.settle(seconds=180)
        assert phases(paper) == ["ready"]


def test_a_lost_order_is_sent_again() -> None:
    paper = Paper(snapshot(node("n"), model(), service()))
    paper.deaf.update({"replica-" + "0" * 16})
    paper.turn()
    uid = paper.replicas("bot")[0].uid
    paper.snapshot = replace(
        paper.snapshot, seen=replace(paper.snapshot.seen, processes={}, probed={})
    )
    paper.settle()
    assert phases(paper) == ["ready"]
    assert paper.replicas("bot")[0].uid == uid
    assert paper.replicas("bot")[0].status.epoch == 1, "the same order, not a new assignment"


def test_nothing_is_restarted_on_a_node_that_cannot_be_seen() -> None:
    paper = serving()
    paper.lose("n0")
    paper.settle()
    assert phases(paper) == ["ready"]
    paper.find("n0")
    paper.settle()
    assert phases(paper) == ["ready"]
    assert paper.replicas("bot")[0].status.epoch == 1


def test_a_replica_stops_only_when_no_gateway_routes_to_it() -> None:
    paper = serving()
    uid = paper.replicas("bot")[0].uid
    paper.snapshot = replace(
        paper.snapshot, seen=replace(paper.snapshot.seen, routed=frozenset({uid}))
    )
    apply(paper, scale=0)
    paper.settle(seconds=120)
    assert phases(paper) == ["draining"], "however long it takes"
    paper.snapshot = replace(paper.snapshot, seen=replace(paper.snapshot.seen, routed=None))
    paper.settle()
    assert phases(paper) == ["draining"], "not knowing is not the same as nobody"
    paper.snapshot = replace(
        paper.snapshot, seen=replace(paper.snapshot.seen, routed=frozenset(), inflight={uid: 1})
    )
    paper.turn()
    assert phases(paper) == ["stopping"], "30 s for the requests under way have passed long ago"


def test_deleting_a_service_leaves_nothing() -> None:
    paper = serving(scale=2)
    paper.put(paper.snapshot.services[BOT].model_copy(update={"deleted_at": paper.now}))
    paper.settle()
    left = {kind: len(kept) for kind, kept in paper.snapshot.kept.items() if kept}
    assert left.keys() == {"node", "accelerator", "model", "build", "queue"}


def test_a_service_without_its_model_says_so_and_goes_on_when_it_comes() -> None:
    paper = Paper(snapshot(node("n"), service()))
    paper.settle()
    status = paper.snapshot.services[BOT].status
    assert status.blocked_by == "model/tiny"
    assert status.smallest_fix == Reason(code="model.fix-add", values={"model": "tiny"})
    paper.put(model())
    paper.settle()
    assert phases(paper) == ["ready"]


def test_what_waits_is_explained_with_a_fix_that_works() -> None:
    paper = Paper(snapshot(node("n", memory_gb=24), model(), service(needs={"memory": "80GB"})))
    paper.settle()
    told = explain(paper.snapshot.services[BOT], paper.snapshot)
    assert told.phase == "pending"
    assert told.smallest_fix is not None
    assert told.smallest_fix.code == "placement.fix-memory"
    apply(paper, needs={"memory": told.smallest_fix.values["memory"]})
    paper.settle()
    assert phases(paper) == ["ready"]


def test_scaling_another_service_down_is_offered_when_it_would_make_room() -> None:
    paper = Paper(snapshot(node("n", cards=1), model(), service("first"), service("second")))
    paper.settle()
    told = explain(paper.snapshot.services[Ref(PROJECT, "second")], paper.snapshot)
    assert told.smallest_fix == Reason(
        code="placement.fix-scale", values={"service": "first", "scale": 0}
    )


def test_other_projects_are_never_named_in_a_fix() -> None:
    stranger = service("theirs", project="other/lab")
    paper = Paper(
        snapshot(node("n"), model(), model(project="other/lab"), stranger, service(scale=1))
    )
    paper.settle()
    waiting = next(
        s for s in paper.snapshot.services.values() if s.status.phase is ServicePhase.PENDING
    )
    assert "placement.fix-like" in explain(waiting, paper.snapshot).model_dump_json()


def test_a_clock_that_is_set_back_does_not_turn_seconds_into_hours() -> None:
    paper = serving()
    paper.kill(paper.replicas("bot")[0].uid, exit_code=1)
    paper.turn()
    paper.leap(-86_400)
    paper.settle()
    assert phases(paper) == ["ready"]


def test_an_engine_that_announces_itself_and_never_answers_is_taken_for_hung() -> None:
    paper = Paper(snapshot(node("n"), model(), service()))
    paper.turn()
    paper.wait(2.0)
    mute = replace(paper.snapshot.seen, probed={})
    paper.snapshot = replace(paper.snapshot, seen=mute)
    paper.turn()
    paper.wait(61)
    paper.turn()
    status = paper.replicas("bot")[0].status
    assert status.reason is not None
    assert status.reason.code == "replica.no-answer"


def test_an_order_to_stop_that_was_lost_is_waited_for_and_sent_again() -> None:
    """Control died between the intent to stop a failed replica and the order."""
    paper = Paper(snapshot(node("n"), model(), service()), passes=False)
    paper.turn()
    paper.deaf = {replica.uid for replica in paper.replicas("bot")}
    while phases(paper) != ["failed"]:
        paper.wait(1.0)
        paper.turn()
    (replica,) = paper.replicas("bot")
    assert replica.uid in paper.snapshot.seen.processes
    assert wake_s(replica, paper.snapshot) == 15.0
    paper.deaf.clear()
    paper.settle()
    assert paper.snapshot.seen.processes == {}
    assert wake_s(paper.replicas("bot")[0], paper.snapshot) is None


def test_what_merely_is_not_seen_holds_its_place_until_its_node_was_told_and_looked_at() -> None:
    paper = Paper(snapshot(node("n"), model(), service()))
    paper.turn()
    replica = paper.replicas("bot")[0]
    on_its_way = replace(paper.snapshot.seen, processes={}, places={})
    paper.snapshot = replace(paper.snapshot, seen=on_its_way)
    paper.deaf.add(replica.uid)
    apply(paper, scale=0)
    paper.turn()
    assert phases(paper) == ["stopping"], "its start may still arrive"
    told = {(replica.uid, replica.status.epoch)}
    paper.snapshot = replace(paper.snapshot, seen=replace(on_its_way, fenced=frozenset(told)))
    paper.turn()
    assert phases(paper) == []


def test_an_end_at_an_earlier_epoch_says_nothing_of_this_one() -> None:
    paper = serving()
    replica = paper.replicas("bot")[0]
    apply(paper, scale=0)
    older = replace(
        paper.snapshot.seen.processes[replica.uid], epoch=replica.status.epoch - 1, state="exited"
    )
    paper.deaf.add(replica.uid)
    paper.snapshot = replace(
        paper.snapshot, seen=replace(paper.snapshot.seen, processes={replica.uid: older})
    )
    paper.turn()
    paper.turn()
    assert phases(paper) == ["stopping"]
    told = frozenset({(replica.uid, replica.status.epoch)})
    paper.snapshot = replace(paper.snapshot, seen=replace(paper.snapshot.seen, fenced=told))
    paper.turn()
    assert phases(paper) == [], "some node has kept that end; it will never be this one's"


def test_what_is_due_to_be_tried_again_and_finds_no_room_waits_for_room_and_not_for_time() -> None:
    paper = serving()
    paper.kill(paper.replicas("bot")[0].uid)
    paper.turn()
    full = [a.model_copy(update={"spec": a.spec.model_copy(update={"memory_bytes": 1})})
            for a in paper.snapshot.accelerators.values()]  # fmt: skip
    paper.put(*full)
    paper.wait(60.0)
    assert paper.turn().actions
    assert phases(paper) == ["backing-off"]
    assert paper.turn().wake_s is None


def test_what_runs_for_nobody_is_told_to_stop_once() -> None:
    paper = Paper(snapshot(node("n"), model()))
    uid = "replica-of-nobody"
    orphan = Process(uid=uid, epoch=3, state="running", pid=1)
    seen = replace(paper.snapshot.seen, processes={uid: orphan}, places={uid: "n"})
    told = plan(replace(paper.snapshot, seen=seen)).effects()
    assert [action.effect for action in told] == [Stop("n", uid, 3)]
    fenced = replace(seen, fenced=frozenset({(uid, 3)}))
    assert plan(replace(paper.snapshot, seen=fenced)).effects() == ()


def test_what_runs_for_nobody_is_told_to_stop_once_and_what_is_not_ours_is_left_alone() -> None:
    paper = Paper(snapshot(node("n")))
    lost = Process("replica-lost", 3, "running", pid=9)
    other = Process("gateway", 1, "running", pid=8)
    places = {lost.uid: "n", other.uid: "n"}
    seen = replace(paper.snapshot.seen, processes={lost.uid: lost, other.uid: other}, places=places)
    paper.snapshot = replace(paper.snapshot, seen=seen)
    orders = [action.effect for action in plan(paper.snapshot).effects()]
    assert orders == [Stop("n", lost.uid, 3)]
    told = replace(seen, fenced=frozenset({(lost.uid, 3)}))
    assert plan(replace(paper.snapshot, seen=told)).effects() == ()


def test_it_is_written_down_whom_names_mean_that_a_service_is_shown_to():
    def project(uid: str) -> Project:
        return Project(
            project="beta/lab", name="lab", uid=uid, spec=ProjectSpec(), status=ProjectStatus()
        )

    def meant(paper: Paper) -> dict[str, str]:
        return paper.snapshot.services[Ref(PROJECT, "bot")].status.shown_to

    shown = service(visible_to=["beta/lab", "site"])
    paper = Paper(snapshot(node("a"), model(), shown))
    paper.settle()
    assert meant(paper) == {}, "nobody is there"
    paper.put(project("first"))
    paper.settle()
    assert meant(paper) == {"beta/lab": "first"}
    paper._store((), [paper.snapshot.all(Project)[Ref("beta/lab", "lab")]])
    paper.put(project("second"))
    paper.settle()
    assert meant(paper) == {"beta/lab": "first"}, "that is another one"
    known = paper.snapshot.services[Ref(PROJECT, "bot")]
    paper.put(known.model_copy(update={"spec": service().spec, "generation": 2}))
    paper.settle()
    assert meant(paper) == {}
