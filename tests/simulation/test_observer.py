"""What is seen of many nodes at once: each view by itself, and put together right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from madang.clocks import SystemClock
from madang.control.gateways import Gateways
from madang.control.observe import Observer
from madang.control.pulse import Pulses
from madang.control.world import World
from madang.planning.snapshot import Probed, Seen
from madang.settings import Home
from madang.stores.sqlite import SqliteStore
from madang.supervisor.protocol import Process
from madang.testing.node import PaperNode

DEADLINE_S = 20.0


def process(uid: str, epoch: int = 1) -> Process:
    return Process(uid, epoch, "running", pid=epoch)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    world = World(SqliteStore(home), {}, SystemClock())
    await world.open()
    yield world
    await world.store.close()


@pytest.fixture
async def yard(world: World) -> AsyncIterator[tuple[Observer, dict[str, PaperNode]]]:
    nodes = {name: PaperNode() for name in ("a", "b")}
    gateways = Gateways(world, lambda uid, _epoch: uid)
    observer = Observer(world, nodes, gateways, lambda *_: Probed(healthy=True))
    watching = [asyncio.create_task(observer.watch(name)) for name in nodes]
    await observer.first_look()
    yield observer, nodes
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)


async def until(observer: Observer, holds: Callable[[Seen], object]) -> Seen:
    """Wait until it holds of what is seen."""
    async with asyncio.timeout(DEADLINE_S):
        while not holds(seen := observer.seen()):
            await observer.world.moved(observer.world.tick, 0.05)
        return seen


def show(node: PaperNode, *processes: Process) -> None:
    node.processes = {each.uid: each for each in processes}
    node.move()


async def test_of_a_process_on_two_nodes_the_other_is_seen_once_one_has_gone(yard):
    observer, nodes = yard
    show(nodes["a"], process("x", 1), process("y"))
    await until(observer, lambda seen: seen.places.get("x") == "a")
    show(nodes["b"], process("x", 2))
    await until(observer, lambda seen: seen.processes["x"].epoch == 2 and seen.places["x"] == "b")
    show(nodes["b"])
    seen = await until(observer, lambda seen: seen.processes["x"].epoch == 1)
    assert dict(seen.places) == {"x": "a", "y": "a"}


async def test_an_end_that_a_node_has_kept_hides_no_successor_on_another(yard):
    observer, nodes = yard
    show(nodes["b"], process("x", 2), process("y"))
    await until(observer, lambda seen: "x" in seen.processes)
    show(nodes["a"], replace(process("x", 1), state="exited"), process("z"))
    seen = await until(observer, lambda seen: "z" in seen.processes)
    assert (seen.places["x"], seen.processes["x"].epoch) == ("b", 2)


async def test_a_node_out_of_sight_takes_its_processes_along_and_no_others(yard):
    observer, nodes = yard
    show(nodes["a"], process("x"))
    show(nodes["b"], process("y"))
    before = await until(observer, lambda seen: len(seen.processes) == 2)
    nodes["a"].reachable = False
    nodes["a"].move()
    seen = await until(observer, lambda seen: seen.nodes == {"b"})
    assert dict(seen.places) == {"y": "b"}
    assert dict(before.places) == {"x": "a", "y": "b"}, "what was given out stays as it was"
    nodes["a"].reachable = True
    await until(observer, lambda seen: dict(seen.places) == {"x": "a", "y": "b"})


async def test_the_same_nodes_in_sight_are_the_same_object(yard):
    observer, nodes = yard
    before = observer.seen()
    show(nodes["a"], process("x"))
    seen = await until(observer, lambda seen: "x" in seen.processes)
    assert seen.nodes is before.nodes, "by this planning knows that its sums still hold"


def test_only_an_engine_that_gives_cause_to_look_has_a_pulse(world):
    pulses = Pulses(SystemClock(), Gateways(world, lambda uid, _epoch: uid))
    well, mute, strange = ("well", 1), ("mute", 1), ("strange", 1)
    for key in (well, mute, strange):
        pulses.hear(key, Probed(healthy=True))
    assert pulses.now() == {}
    pulses.hear(mute, None)
    pulses.hear(strange, Probed(healthy=False, detail="it answers as nobody"))
    told = pulses.now()
    assert told.keys() == {mute, strange}
    assert (told[mute].misses, told[strange].strange) == (1, 1)
    pulses.hear(mute, Probed(healthy=True))
    assert pulses.now().keys() == {strange}
