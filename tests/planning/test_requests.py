"""Requests that ask for nothing, for what can't be together, or for more than there is."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pydantic import ValidationError

from madang.messages import say
from madang.planning.preview import wish
from madang.resources.manifest import read
from madang.resources.quantity import size_bytes, written_size
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import Reason, Ref
from madang.resources.scale import REPLICAS_MAX
from madang.resources.service import ServicePhase, ServiceSpec, ServiceStatus
from madang.testing.builders import PROJECT, model, node, service, snapshot
from madang.testing.paper import Paper

NODES = 3


def asked(**spec: object) -> Paper:
    """Return a small mixed fleet that was asked for a service, once it is quiet."""
    paper = Paper(
        snapshot(
            node("a", cards=2), node("b", cards=4, kind="nvidia/l40s", memory_gb=48),
            node("c", kind="cpu", memory_gb=256, shared=True), model(), service(**spec),
        )
    )  # fmt: skip
    paper.settle()
    return paper


def told(paper: Paper) -> ServiceStatus:
    return paper.snapshot.services[Ref(PROJECT, "bot")].status


def fell(reason: Reason | None) -> dict[str, object]:
    assert reason is not None
    assert reason.code == "placement.nowhere"
    counts = {k.removeprefix("fell_"): v for k, v in reason.values.items() if "fell_" in k}
    assert sum(counts.values()) == reason.values["nodes"] == NODES, "each node is counted once"
    return counts


@pytest.mark.parametrize(
    "spec",
    [{"needs": {"count": 0}}, {"needs": {"count": -1}}, {"needs": {"count": 65}}, {"scale": -1},
     {"scale": REPLICAS_MAX + 1}, {"needs": {"cores": -1}}, {"needs": {"host_memory": "-1GB"}},
     {"needs": {"memory": "-80GB"}}],
)  # fmt: skip
def test_less_than_nothing_and_more_than_anything_never_reach_planning(spec):
    with pytest.raises(ValidationError):
        ServiceSpec.model_validate({"model": "tiny", **spec})


def test_no_replicas_is_a_service_that_is_ready_with_none():
    paper = asked(scale=0)
    assert told(paper).phase is ServicePhase.READY
    assert paper.replicas("bot") == []


@pytest.mark.parametrize("memory", ["0GB", "1MB"])
def test_less_memory_than_the_model_needs_is_refused_with_the_least_that_would_do(memory):
    status = told(asked(needs={"memory": memory}))
    assert status.reason is not None
    assert status.reason.code == "model.too-large"
    assert status.smallest_fix == Reason(code="placement.fix-memory", values={"memory": "1GB"})


CONTRADICTORY = {
    "a maker of whom there is nothing": (
        {"accelerator": "furiosa"}, {"wrong_kind": 3}, "placement.fix-kind"),
    "a kind with more memory than it is made with": (
        {"accelerator": "nvidia/h100", "memory": "141GB"}, {"wrong_kind": 2, "too_small": 1},
        "placement.fix-memory"),
    "several processors of one node": (
        {"accelerator": "cpu", "count": 2}, {"wrong_kind": 2, "too_few": 1}, "placement.fix-kind"),
    "all to itself on a processor that is smaller": (
        {"accelerator": "cpu", "guarantee": "isolated", "cores": 40}, {"wrong_kind": 2, "cores": 1},
        "placement.fix-cores"),
}  # fmt: skip
LARGER = {
    "more accelerators than any node has": (
        {"count": 5}, {"too_few": 3}, "placement.fix-add"),
    "as many as may be asked for": (
        {"count": 64, "accelerator": "nvidia"}, {"wrong_kind": 1, "too_few": 2},
        "placement.fix-add"),
    "more processors than any node has": (
        {"cores": 17}, {"cores": 3}, "placement.fix-cores"),
    "more memory than any node has": (
        {"host_memory": "1TB"}, {"host_memory": 3}, "placement.fix-host-memory"),
}  # fmt: skip


@pytest.mark.parametrize(("needs", "counts", "fix"), (CONTRADICTORY | LARGER).values(),
                         ids=(CONTRADICTORY | LARGER).keys())  # fmt: skip
def test_what_no_node_can_give_waits_and_says_which_rule_each_falls_to(needs, counts, fix):
    paper = asked(needs=needs)
    replica = paper.replicas("bot")[0].status
    assert replica.phase is ReplicaPhase.WAITING
    assert fell(replica.reason) == counts
    assert replica.smallest_fix is not None
    assert replica.smallest_fix.code == fix
    assert told(paper).phase is ServicePhase.PENDING
    assert (told(paper).reason, told(paper).smallest_fix) == (replica.reason, replica.smallest_fix)


def test_data_of_a_grade_that_no_site_may_hold_waits():
    status = asked(grade="C").replicas("bot")[0].status
    assert fell(status.reason) == {"grade": NODES}


def test_more_replicas_than_the_fleet_holds_start_as_many_as_fit_and_the_rest_say_why():
    paper = asked(scale=100, needs={"accelerator": "nvidia/h100"})
    phases = [replica.status.phase for replica in paper.replicas("bot")]
    assert phases.count(ReplicaPhase.READY) == 2
    assert phases.count(ReplicaPhase.WAITING) == 98
    assert told(paper).phase is ServicePhase.DEGRADED
    assert fell(told(paper).reason) == {"wrong_kind": 2, "busy": 1}


@pytest.mark.parametrize(
    ("has", "needs", "fix"),
    [({"memory_gb": 32}, {"memory": "40GB"}, "needs: {memory: 32GB}"),
     ({"memory_gb": 31.9994}, {"memory": "32GB"}, "needs: {memory: 31.9GB}"),
     ({"memory_gb": 0.5}, {"memory": "1GB"}, "needs: {memory: 500MB}"),
     ({"kind": "cpu", "memory_gb": 256, "shared": True}, {"memory": "2TB"},
      "needs: {memory: 256GB}"),
     ({}, {"host_memory": "2TB"}, "needs: {host_memory: 255GB}")],
)  # fmt: skip
def test_a_fix_says_memory_as_people_write_it_and_no_more_than_there_is(has, needs, fix):
    paper = Paper(snapshot(node("a", **has), model(size_gb=0.1), service(needs=needs)))
    paper.settle()
    found = told(paper).smallest_fix
    for lang in ("en", "ko"):
        assert say(found.code, found.values, lang).text.endswith(fix), lang


def test_a_fix_says_memory_to_the_megabyte_where_the_model_needs_nearly_all():
    needs = {"memory": "33GB"}
    paper = Paper(
        snapshot(node("a", memory_gb=31.9994), model(size_gb=31.95), service(needs=needs))
    )
    paper.settle()
    assert told(paper).smallest_fix.values == {"memory": "31.999GB"}


def test_a_fix_says_processors_and_power_to_the_last_digit_that_was_tried():
    for code, values, written in (
        ("placement.fix-cores", {"cores": 127.5}, "{cores: 127.5}"),
        ("placement.fix-power", {"pool": "p", "power": 1234.567}, "power_kw_max: 1234.567"),
    ):
        assert say(code, values, "en").text.endswith(written)


@given(st.integers(0, 10**12))
def test_whole_megabytes_are_read_as_the_size_that_was_written(megabytes):
    assert size_bytes(written_size(megabytes * 10**6)) == megabytes * 10**6


def test_what_changes_is_told_as_people_write_it():
    needs = {"host_memory": "31.999GB", "memory": "1GB", "cores": 0}
    before = snapshot(model(), service(needs=needs))
    needs = {"host_memory": "32GB", "memory": "500MB", "cores": 12}
    body = {"kind": "service", "name": "bot", "model": "tiny", "needs": needs}
    assert set(wish(read(body, PROJECT), before, "new").fields) == {
        "needs.host_memory: 31.999GB -> 32GB", "needs.memory: 1GB -> 500MB", "needs.cores: 0 -> 12"
    }  # fmt: skip
