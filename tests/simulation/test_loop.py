"""The virtual loop: time passes at once, work is done in it, and a life ends whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from madang.testing.simulation.loop import START_S, Life, VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


def test_a_day_passes_at_once(loop: VirtualLoop) -> None:
    began = time.monotonic()
    loop.run_until_complete(asyncio.sleep(86_400))
    assert loop.time() == START_S + 86_400
    assert time.monotonic() - began < 60


def test_blocking_work_takes_virtual_time_and_no_thread(loop: VirtualLoop) -> None:
    loop.takes_s = lambda _work, arguments: float(arguments[0])

    async def ask() -> list[int]:
        pool = ThreadPoolExecutor(1)
        asked = (loop.run_in_executor(pool, abs, number) for number in (3, 1))
        return await asyncio.gather(*asked)

    assert loop.run_until_complete(ask()) == [3, 1]
    assert loop.time() == START_S + 3


def test_what_blocking_work_raises_reaches_whoever_waits(loop: VirtualLoop) -> None:
    async def ask() -> None:
        await asyncio.to_thread(int, "x")

    with pytest.raises(ValueError, match="invalid literal"):
        loop.run_until_complete(ask())


def test_a_loop_in_which_nothing_is_due_says_so(loop: VirtualLoop) -> None:
    waiting = loop.create_future()
    with pytest.raises(RuntimeError, match="nothing is due"):
        loop.run_until_complete(waiting)


def test_a_life_ends_with_all_that_it_has_started(loop: VirtualLoop) -> None:
    done: list[str] = []

    async def child(name: str) -> None:
        await asyncio.sleep(5)
        done.append(name)

    async def parent() -> None:
        kept = asyncio.create_task(child("child"))
        await kept

    async def world() -> None:
        life = Life()
        life.begin(parent())
        other = asyncio.create_task(child("other"))
        await asyncio.sleep(1)
        life.end()
        await other
        await asyncio.sleep(10)

    loop.run_until_complete(world())
    assert done == ["other"]
