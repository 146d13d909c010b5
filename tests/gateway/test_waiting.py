"""From planning's reason to the caller's sentence: what control routes is what the gateway says."""

from __future__ import annotations

import msgspec
import pytest

from madang.clocks import SystemClock
from madang.control.gateways import Gateways
from madang.control.world import World
from madang.resources.service import ServicePhase
from madang.testing import builders
from madang.testing.paper import Paper
from madang.traffic.table import Key, RouteTable, Waiting

SMALL = builders.node("n1", memory_gb=24)


class Shelf:
    """A store that has what it was given."""

    id = "shelf"

    def __init__(self, resources):
        self.resources = resources

    async def open(self):
        return 1

    async def load(self, who):
        return 1, self.resources

    async def record_usage(self, who, records):
        return ()


def planned(**spec):
    """Return everything there is once planning has nothing more to say about one service."""
    paper = Paper(builders.snapshot(SMALL, builders.model(), builders.service(**spec)))
    paper.settle()
    return [each for kept in paper.snapshot.kept.values() for each in kept.values()]


async def routed(resources):
    """Return the table that control makes of these, as a gateway reads it."""
    world = World(Shelf(resources), {"fake": builders.FAKE}, SystemClock())
    await world.open()
    table = Gateways(world, lambda uid, epoch: "t").table()
    return msgspec.json.decode(msgspec.json.encode(table), type=RouteTable)


ENGLISH = (
    "The model 'bot' can't answer now: no replica is ready."
    " It needs 1 × 80GB on cpu/nvidia; no node of 1 can give that now."
)
KOREAN = (
    "'bot' 모델은 지금 답할 수 없습니다. 준비된 복제본이 없습니다."
    " cpu/nvidia 가속기에 80GB × 1개가 필요한데,"
    " 노드 1개 중 지금 줄 수 있는 노드가 없습니다."
)


@pytest.mark.parametrize(("lang", "said"), [("en", ENGLISH), ("ko", KOREAN)])
async def test_a_model_that_finds_no_place_is_503_with_plannings_reason(app, table, lang, said):
    routes = await routed(planned(needs={"memory": "80GB"}))
    keys = {
        digest: Key("app", builders.PROJECT, "member", may_infer=True) for digest in table().keys
    }
    app.desk.take(msgspec.structs.replace(routes, keys=keys))
    headers = {"Authorization": "Bearer sk-test", "Accept-Language": lang}
    response = await app.client.post(
        "/v1/chat/completions",
        headers=headers,
        json={"model": "bot", "messages": [{"role": "user", "content": "hi"}]},
    )
    assert response.status_code == 503
    assert response.json()["error"]["message"] == said


async def test_a_service_that_is_scaled_to_zero_or_gone_says_so():
    [endpoint] = (await routed(planned(scale=0))).endpoints
    assert endpoint.waiting == Waiting("service.scaled-to-zero", {"subject": "service/bot"})
    orphaned = [each for each in planned() if each.kind == "endpoint"]
    [endpoint] = (await routed(orphaned)).endpoints
    assert endpoint.waiting == Waiting("service.missing", {"subject": "service/bot"})


async def test_a_service_that_serves_waits_for_nothing():
    [endpoint] = (await routed(planned())).endpoints
    assert endpoint.targets
    assert endpoint.waiting is None


async def test_requests_may_wait_where_a_replica_comes_when_it_is_called_for():
    [endpoint] = (await routed(planned(scale={"min": 0, "max": 2, "hold": "90s"}))).endpoints
    assert (endpoint.hold_s, endpoint.targets) == (90, ())
    assert endpoint.waiting.code == "service.asleep"
    [endpoint] = (await routed(planned(scale=0))).endpoints
    assert endpoint.hold_s == 0


async def test_nobody_waits_for_a_service_that_has_failed():
    resources = [
        each.with_status(phase=ServicePhase.FAILED) if each.kind == "service" else each
        for each in planned(scale="0..2")
    ]
    [endpoint] = (await routed(resources)).endpoints
    assert endpoint.hold_s == 0
