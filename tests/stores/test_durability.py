"""A writer killed at any moment loses nothing that it was told is stored."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from tests.stores.killed import store_of

from madang.resources.rights import CONTROL
from madang.settings import Home

ROUNDS = {"sqlite": 40, "postgres": 15}
NURSERY = Path(__file__).parent / "killed.py"


@pytest.fixture(params=ROUNDS)
def product(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Lay the home out for a store of that kind."""
    name: str = request.param
    if name == "postgres":
        server = request.getfixturevalue("postgres")
        Home(tmp_path).database.write_text(server.url(server.make_database()))
    return name


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(NURSERY), str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def acknowledged_before_kill(
    nursery: subprocess.Popen[str], chance: random.Random
) -> dict[str, int]:
    """Let one writer run, kill it after a random number of commits, return what it was told."""
    orders, said = nursery.stdin, nursery.stdout
    assert orders is not None
    assert said is not None
    orders.write("go\n")
    orders.flush()
    pid = int(said.readline().removeprefix("pid "))
    told = [said.readline() for _ in range(chance.randrange(1, 60))]
    time.sleep(chance.random() * 0.004)  # the moment of death, not a wait for anything
    os.kill(pid, signal.SIGKILL)
    told += until_ended(said)
    return {uid: int(version) for version, uid in (line.split() for line in told)}


def until_ended(said: IO[str]) -> list[str]:
    return list(iter(said.readline, "ended\n"))


@pytest.mark.timeout(120)
async def test_no_acknowledged_write_is_lost_to_kill_9(
    nursery: subprocess.Popen[str], tmp_path: Path, product: str
) -> None:
    rounds = ROUNDS[product]
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    told: dict[str, int] = {}
    for _ in range(rounds):
        told.update(acknowledged_before_kill(nursery, chance))
    assert nursery.stdin is not None
    nursery.stdin.close()
    store = store_of(Home(tmp_path))
    assert await store.open() == rounds + 1
    _, living = await store.load(CONTROL)
    kept = {each.uid: each.resource_version for each in living}
    events = {each.name for each in await store.events(CONTROL, limit=10**6)}
    await store.close()
    lost = [uid for uid, version in told.items() if kept.get(f"{uid}-a") != version]
    torn = [uid[:-2] for uid in kept if not {f"{uid[:-2]}-a", f"{uid[:-2]}-b"} <= set(kept)]
    untold = {uid[:-2] for uid in kept} ^ events
    print(f"seed {seed}: {len(told)} acknowledged, {len(lost)} lost in {rounds} kills")
    assert len(told) >= rounds
    assert (lost, torn, untold) == ([], [], set())
