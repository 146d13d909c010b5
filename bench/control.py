"""Control at rest: a turn with nothing to do, and the API while such turns go on.

The world is filled through the store; its processes exist on paper only. The loop, the store,
the planning and the API are the product's own. CPU seconds are this process's. Measured with all
replicas on one node, and spread over the 1,213 nodes of examples/fleets/openb.yaml, to each of
which a processor is added: its GPUs alone could not hold 10,000 replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import uvicorn

from madang.api.app import build
from madang.api.desk import Desk
from madang.cli.fleet import read as read_fleet
from madang.clocks import SystemClock, SystemRandom
from madang.control.first import Hardware, prepare
from madang.control.loop import Loop
from madang.control.world import World
from madang.engines.fake import Fake
from madang.launchers.simulated import SimulatedProbe
from madang.planning.snapshot import Seen
from madang.ports import Found
from madang.resources.endpoint import Endpoint, EndpointSpec
from madang.resources.replica import Replica, ReplicaPhase, ReplicaSpec, ReplicaStatus
from madang.resources.resource import AnyResource
from madang.resources.revision import Revision, RevisionPhase, RevisionSpec, RevisionStatus
from madang.resources.rights import CONTROL
from madang.resources.service import Needs, ServicePhase
from madang.resources.tenancy import Empty
from madang.settings import Home
from madang.stores.sqlite import SqliteStore
from madang.supervisor.protocol import Process
from madang.testing.builders import model, service
from madang.testing.control import Edges, wired
from madang.testing.node import PaperNode
from rows import Row, write

PROJECT = "local/main"
PER_SERVICE = 50
TURNS = 20
REQUESTS = 400
OPENB = Path(__file__).parents[1] / "examples" / "fleets" / "openb.yaml"
ON_OPENB = {(10_000, " on 1,213 nodes"): 100.0}
FLOORS = {(1_000, ""): 10.0, (10_000, ""): 100.0, **ON_OPENB}


def one_node() -> list[Hardware]:
    """Return a single large machine."""
    return [Hardware("n", [Found("cpu0", "cpu", 10**13, shared=True, attributes={"cores": 64})])]


def openb() -> list[Hardware]:
    """Return the nodes of the public trace, each with a processor besides."""
    cpu = Found("cpu0", "cpu", 10**11, shared=True)
    return [
        Hardware(
            node["name"], [cpu, *SimulatedProbe(node).find()], site=node["site"],
            pool=node["pool"], labels=node["labels"], cores=node["cores"],
            memory_bytes=node["memory_bytes"],
        )
        for node in read_fleet(str(OPENB))["nodes"]
    ]  # fmt: skip


def filling(replicas: int, nodes: Sequence[str]) -> Iterator[AnyResource]:
    """Return services that are all ready, with everything that belongs to them."""
    tiny = model(project=PROJECT)
    yield tiny
    for number in range(replicas // PER_SERVICE):
        name = f"s{number}"
        told = {
            "observed_generation": 1, "revision": f"{name}-1", "revisions": 1,
            "replicas": PER_SERVICE, "ready": PER_SERVICE, "phase": ServicePhase.READY,
        }  # fmt: skip
        yield service(name, project=PROJECT, scale=PER_SERVICE).with_status(**told)
        yield Endpoint(
            project=PROJECT, name=name, uid=f"endpoint-{name}",
            spec=EndpointSpec(service=name), status=Empty(),
        )  # fmt: skip
        spec = RevisionSpec(
            service=name, number=1, model="tiny", model_version=1,
            digest=tiny.status.versions[0].digest, recipe="fake", needs=Needs(),
            memory_bytes=10**6, context_tokens=4096, slots=4, gate=("smoke",),
        )  # fmt: skip
        yield Revision(
            project=PROJECT, name=f"{name}-1", uid=f"revision-{name}", spec=spec,
            status=RevisionStatus(phase=RevisionPhase.SERVING),
        )  # fmt: skip
        for serial in range(1, PER_SERVICE + 1):
            yield replica(name, serial, nodes[(number * PER_SERVICE + serial) % len(nodes)])


def replica(name: str, serial: int, node: str) -> Replica:
    """Return a replica that serves, since a moment ago."""
    now = time.time()
    status = ReplicaStatus(
        phase=ReplicaPhase.READY, node=node, accelerators=(f"{node}-cpu0",), memory_bytes=10**6,
        epoch=1, pid=1, url="http://127.0.0.1:9", started_at=now, ready_at=now,
    )  # fmt: skip
    return Replica(
        project=PROJECT, name=f"{name}-1-{serial}", uid=f"replica-{name}-{serial}",
        spec=ReplicaSpec(service=name, revision=f"{name}-1"), status=status,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def running(
    home: Home, replicas: int, hardware: Sequence[Hardware]
) -> AsyncIterator[tuple[Desk, Loop]]:
    """Fill a store, and run control on it."""
    world = World(SqliteStore(home), {"fake": Fake().facts}, SystemClock())
    await world.open()
    await prepare(world, hardware, home.admin_key, SystemRandom())
    await world.commit(CONTROL, filling(replicas, [each.node for each in hardware]))
    nodes = on_paper(world, hardware)
    desk, hands = wired(home, world, Edges(next(iter(nodes.values()))), nodes)
    observer = desk.observer
    loop = Loop(world, observer, hands)
    watching = [asyncio.create_task(observer.watch(name)) for name in nodes]
    await observer.first_look()
    while (await loop.turn()).actions or not _is_at_rest(observer.seen(), replicas):
        await world.moved(world.tick, 0.1)
    try:
        yield desk, loop
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await world.store.close()


def _is_at_rest(seen: Seen, replicas: int) -> bool:
    """Tell whether every engine has said who it is, and it is known what gateways serve."""
    return len(seen.probed) >= replicas and seen.routed is not None


def on_paper(world: World, hardware: Sequence[Hardware]) -> dict[str, PaperNode]:
    """Return nodes on which all replicas run that the world says are theirs."""
    running: dict[str, list[Process]] = {each.node: [] for each in hardware}
    for each in world.list(CONTROL, "replica").values():
        process = Process(each.uid, 1, "running", pid=1, announced={"url": "http://127.0.0.1:9"})
        running[each.status.node].append(process)
    return {name: PaperNode(processes) for name, processes in running.items()}


async def turn_cpu_ms(loop: Loop) -> float:
    """Return the CPU milliseconds of one idle turn, over a few."""
    start_s = time.process_time()
    for _ in range(TURNS):
        assert not (await loop.turn()).actions, "the world is not at rest"
    return (time.process_time() - start_s) / TURNS * 1000


async def api_p99_ms(desk: Desk, loop: Loop) -> float:
    """Return the p99 of reading one resource over HTTP, from another process, while turns go on."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build(desk), log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    port = listening.getsockname()[1]
    key = desk.home.admin_key.read_text().strip()
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--ask", str(port), key, stdout=subprocess.PIPE
    )
    asking = asyncio.create_task(child.communicate())
    while not asking.done():
        await loop.turn()
        await asyncio.sleep(0.02)
    out, _ = await asking
    server.should_exit = True
    await serving
    return float(json.loads(out))


def ask(port: int, key: str) -> None:
    """Be the client: print the p99 in milliseconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    took: list[float] = []
    for number in range(REQUESTS):
        start_s = time.perf_counter()
        path = f"/api/v1/service/s{number % 10}"
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        took.append((time.perf_counter() - start_s) * 1000)
    print(sorted(took)[int(len(took) * 0.99) - 1])


async def measured(worlds: Mapping[tuple[int, str], float] = FLOORS) -> list[Row]:
    """Measure worlds of these sizes and shapes."""
    rows = []
    for (replicas, shape), floor in worlds.items():
        with tempfile.TemporaryDirectory() as folder:
            hardware = openb() if shape else one_node()
            async with running(Home(Path(folder)), replicas, hardware) as (desk, loop):
                turn_ms = await turn_cpu_ms(loop)
                p99_ms = await api_p99_ms(desk, loop)
        what = f"{replicas} replicas{shape}"
        rows += [
            Row(f"idle turn, {what}, CPU", round(turn_ms, 2), "ms", floor),
            Row(f"API p99 while turning, {what}", round(p99_ms, 1), "ms", 50.0),
        ]
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ask"]:
        ask(int(sys.argv[2]), sys.argv[3])
    else:
        write("control", asyncio.run(measured()))
