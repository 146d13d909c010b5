"""What every launcher promises: one suite, run over each of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

import madang.supervisor
from madang.engines import fake_fleet
from madang.engines.fake import Fake
from madang.errors import Rejected, Unavailable
from madang.launchers.local import Local
from madang.launchers.simulated import FleetLine, Simulated
from madang.ports import Assignment, Launcher
from madang.resources.fleet import Fleet, plain
from madang.supervisor.protocol import (
    LaunchPlan,
    Line,
    Observation,
    Patience,
    Process,
    RankPlan,
)

DEADLINE_S = 20.0
ENV = {"PATH": os.environ["PATH"]}


class Place(Protocol):
    """Where a launcher carries out its plans; a test can take it away and give it back."""

    def launcher(self, term: int = 1, answer_s: float = DEADLINE_S) -> Launcher: ...

    def lose(self) -> None:
        """End the place and all that runs there."""

    def restore(self) -> None:
        """Bring an empty one."""

    def freeze(self) -> None:
        """It answers no more, and says nothing about it."""

    def thaw(self) -> None: ...

    async def close(self) -> None: ...


class LocalPlace:
    """This machine: a real supervisor in a home of its own."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._launchers: list[Local | Simulated] = []
        self.restore()

    def launcher(self, term: int = 1, answer_s: float = DEADLINE_S) -> Launcher:
        self._launchers.append(Local(self._home / "run" / "supervisor.sock", term, answer_s))
        return self._launchers[-1]

    def lose(self) -> None:
        self._process.kill()
        self._process.wait()

    def restore(self) -> None:
        reader, writer = os.pipe()
        program = Path(madang.supervisor.__file__).with_name("__main__.py")
        argv = [sys.executable, "-I", "-S", str(program), str(self._home)]
        self._process = subprocess.Popen(
            [*argv, "--ready-fd", str(writer)], pass_fds=(writer,), start_new_session=True
        )
        os.close(writer)
        with os.fdopen(reader) as ready:
            assert "ready" in json.loads(ready.readline())

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        for launcher in self._launchers:
            await launcher.close()
        self._process.terminate()
        self._process.wait(DEADLINE_S)


class SimulatedPlace(LocalPlace):
    """A node that a fleet file has made up, behind the process that stands for all of them."""

    def launcher(self, term: int = 1, answer_s: float = DEADLINE_S) -> Launcher:
        line = FleetLine(self._home / "run" / "fleet.sock", term, answer_s)
        self._launchers.append(Simulated("edge-1", line))
        return self._launchers[-1]

    def restore(self) -> None:
        self._home.mkdir(exist_ok=True)
        (self._home / "fleet.json").write_text(json.dumps(plain(FLEET)))
        reader, writer = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", fake_fleet.__file__, str(self._home)],
            env={**ENV, "MADANG_READY_FD": str(writer)}, pass_fds=(writer,),
        )  # fmt: skip
        os.close(writer)
        with os.fdopen(reader) as ready:
            assert "url" in json.loads(ready.readline())


FLEET = Fleet.model_validate(
    {"sites": [{"name": "yard", "pools": [{"name": "edge", "nodes": [
        {"name": "edge", "count": 2, "cores": 8, "memory": "16GB"}
    ]}]}]}
)  # fmt: skip
PLACES: dict[str, Callable[[Path], Place]] = {"local": LocalPlace, "simulated": SimulatedPlace}


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    place = PLACES[request.param](tmp_path / "home")
    yield place
    await place.close()


@pytest.fixture
def launcher(place: Place) -> Launcher:
    return place.launcher()


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., LaunchPlan]:
    """Return a maker of plans: each starts the fake engine with a script of its own."""

    def make(uid: str = "a", epoch: int = 1, script: dict | None = None, **more) -> LaunchPlan:
        path = tmp_path / f"{uid}-{epoch}.json"
        path.write_text(json.dumps({"fake": 1, **(script or {})}))
        wanted = Assignment(
            uid=uid, epoch=epoch, model_name="m", model_path=path, context_tokens=8192, slots=4,
            memory_bytes=10**9, cores=1, accelerators=more.pop("accelerators", ()), devices=(),
            token=f"key-of-{uid}-{epoch}",
        )  # fmt: skip
        made = Fake().launch(wanted)
        return replace(made, env={**ENV, **made.env}, **more)

    return make


async def until(
    launcher: Launcher, holds: Callable[[dict[str, Process]], object]
) -> dict[str, Process]:
    """Observe until it holds of the newest process of every uid."""
    async with asyncio.timeout(DEADLINE_S):
        seen = await launcher.observe(0, 0)
        while not holds(found := {p.uid: p for p in seen.processes}):
            seen = await launcher.observe(seen.seq, 1)
        return found


async def test_a_started_process_is_observed_with_all_that_was_given(launcher, plan):
    await launcher.start(plan(epoch=3, accelerators=("gpu0", "gpu1")))
    found = (await until(launcher, lambda found: found["a"].announced))["a"]
    assert (found.epoch, found.state, found.restarts) == (3, "running", 0)
    assert found.announced["url"].startswith("http://127.0.0.1:")
    assert found.accelerators == ("gpu0", "gpu1")
    assert found.pid > 0
    assert found.started_at > 0
    assert found.exit_code is None


async def test_the_same_start_again_starts_nothing_new(launcher, plan):
    await launcher.start(plan())
    first = await launcher.observe(0, 0)
    await launcher.start(plan())
    again = await launcher.observe(0, 0)
    assert [(p.uid, p.pid) for p in again.processes] == [(p.uid, p.pid) for p in first.processes]


async def test_a_higher_epoch_replaces_a_lower_one_is_refused(launcher, plan):
    await launcher.start(plan(epoch=1))
    await launcher.start(plan(epoch=2))
    found = await until(launcher, lambda found: found["a"].state == "running")
    assert found["a"].epoch == 2
    with pytest.raises(Rejected) as refused:
        await launcher.start(plan(epoch=1))
    assert (refused.value.code, refused.value.subject) == ("supervisor.stale-epoch", "a")


async def test_accelerators_stay_taken_until_the_old_process_is_gone(launcher, plan):
    stubborn = {"prints": ["ready"], "fail": {"ignores_stop_signal": True}}
    await launcher.start(plan(script=stubborn, accelerators=("gpu0",), grace_s=1000))
    while not await launcher.tail("a", 1):
        pass
    await launcher.start(plan(epoch=2, accelerators=("gpu1",)))
    both = (await launcher.observe(0, 0)).processes
    assert [(p.epoch, p.state, p.accelerators) for p in both] == [
        (1, "running", ("gpu0",)),
        (2, "waiting", ("gpu1",)),
    ]
    await launcher.stop("a", 2, 0)
    await until(launcher, lambda found: not found)


async def test_an_older_term_is_refused(place, plan):
    await place.launcher(term=5).observe(0, 0)
    with pytest.raises(Rejected) as refused:
        await place.launcher(term=4).start(plan())
    assert refused.value.code == "supervisor.stale-term"
    assert (await place.launcher(term=5).observe(0, 0)).processes == ()


async def test_a_stop_ends_it_and_forgets_it(launcher, plan):
    await launcher.start(plan())
    await launcher.stop("a", 1, 10)
    await until(launcher, lambda found: not found)
    await launcher.stop("a", 1, 10)
    await launcher.stop("unknown", 1, 0)


async def test_what_has_ended_stays_until_it_is_stopped(launcher, plan):
    await launcher.start(plan(script={"fail": {"load": "oh", "exit_code": 7}}))
    found = (await until(launcher, lambda found: found["a"].state == "exited"))["a"]
    assert (found.exit_code, found.pid) == (7, 0)
    assert found.ended_at is not None
    assert await launcher.tail("a", 5) == ("cannot load the model: oh",)
    await launcher.stop("a", 1, 0)
    assert (await launcher.observe(0, 0)).processes == ()


async def test_a_plan_that_cannot_start_is_refused_with_its_cause(launcher):
    with pytest.raises(Rejected) as refused:
        await launcher.start(LaunchPlan("a", 1, ("no-such-program",), ENV))
    assert refused.value.code == "supervisor.spawn-failed"
    assert refused.value.values["program"] == "no-such-program"
    assert "No such file" in str(refused.value.values["cause"])


async def test_the_tail_is_the_last_lines_and_empty_for_the_unknown(launcher, plan):
    prints = [*map(str, range(100)), "한글"]
    await launcher.start(plan(script={"prints": prints}))
    await until(launcher, lambda found: found["a"].announced)
    assert await launcher.tail("a", 2) == ("99", "한글")
    assert await launcher.tail("unknown", 2) == ()


async def test_what_was_printed_is_told_line_by_line_of_a_plain_process_too(launcher, plan):
    await launcher.start(plan(script={"prints": ["one", "two"]}))
    await until(launcher, lambda found: found["a"].announced)
    assert await launcher.printed("a", 2) == (Line("one"), Line("two"))
    assert await launcher.printed("unknown", 2) == ()


async def test_a_signal_reaches_what_runs_and_is_refused_for_what_does_not(launcher, plan):
    await launcher.start(plan())
    await until(launcher, lambda found: found["a"].announced)
    for uid, epoch in (("a", 2), ("unknown", 1)):
        with pytest.raises(Rejected) as refused:
            await launcher.signal(uid, epoch, "SIGKILL")
        assert refused.value.code == "supervisor.unknown-process"
    await launcher.signal("a", 1, "SIGKILL")
    found = await until(launcher, lambda found: found["a"].state == "exited")
    assert found["a"].exit_code == -9


async def test_progress_of_what_is_no_gang_is_refused(launcher, plan):
    await launcher.start(plan())
    with pytest.raises(Rejected) as refused:
        await launcher.progress("a", 1, 0, 0)
    assert refused.value.code == "supervisor.unknown-process"


async def test_a_gang_is_started_seen_heard_warned_and_stopped(tmp_path):
    """On this machine: nothing else has ranks of people's own programs."""
    place = LocalPlace(tmp_path / "home")
    launcher = place.launcher()
    program = (
        "trap 'exit 75' TERM; echo rank $RANK; "
        "echo '{\"step\": 1}' >> $PROGRESS/progress-$RANK.jsonl; while :; do sleep 0.05; done"
    )
    folder = str(tmp_path / "progress")
    ranks = tuple(RankPlan(number, {"RANK": str(number)}) for number in (2, 3))
    member = LaunchPlan("a", 1, ("sh", "-c", program), {**ENV, "PROGRESS": folder},
                        ranks=ranks, progress=folder, patience=Patience(first_s=600))  # fmt: skip
    try:
        await launcher.start(member)
        seen = await until(launcher, lambda f: all(rank.step == 1 for rank in f["a"].ranks))
        assert [rank.rank for rank in seen["a"].ranks] == [2, 3]
        told = await launcher.printed("a", 9)
        assert sorted((line.rank, line.text) for line in told) == [(2, "rank 2"), (3, "rank 3")]
        assert [line.at for line in told] == sorted(line.at for line in told)
        assert await launcher.printed("a", 9, rank=3, first=True) == tuple(
            line for line in told if line.rank == 3
        )
        assert sorted(await launcher.tail("a", 9)) == ["rank 2", "rank 3"]
        assert await launcher.progress("a", 1, 2, 0) == (('{"step": 1}',), 12)
        await launcher.signal("a", 1, "SIGTERM")
        ended = await until(launcher, lambda found: found["a"].state == "exited")
        assert [rank.exit_code for rank in ended["a"].ranks] == [75, 75]
        await launcher.stop("a", 1, 0)
        await until(launcher, lambda found: not found)
    finally:
        await place.close()


async def test_observe_answers_as_soon_as_something_changes(launcher, plan):
    seen = await launcher.observe(0, 0)
    waiting = asyncio.create_task(launcher.observe(seen.seq, 60))
    await launcher.start(plan())
    later = await asyncio.wait_for(waiting, DEADLINE_S)
    assert later.seq != seen.seq
    assert [p.uid for p in later.processes] == ["a"]


async def test_observe_comes_back_when_nothing_changes(launcher):
    seen = await launcher.observe(0, 0)
    assert await launcher.observe(seen.seq, 0.05) == seen


async def test_a_cancelled_observe_does_not_disturb_the_next(launcher):
    seen = await launcher.observe(0, 0)
    waiting = asyncio.create_task(launcher.observe(seen.seq, 60))
    await launcher.tail("a", 1)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert await launcher.observe(0, 0) == seen


async def test_a_place_out_of_sight_is_unavailable_and_never_empty(place, launcher, plan):
    await launcher.start(plan())
    place.lose()
    for attempt in (launcher.observe(0, 0), launcher.start(plan()), launcher.tail("a", 1)):
        with pytest.raises(Unavailable) as unseen:
            await attempt
        assert unseen.value.code == "launcher.unreachable"


async def test_a_place_that_came_back_is_used_again_and_known_as_another(place, launcher, plan):
    first: Observation = await launcher.observe(0, 0)
    await launcher.tail("a", 1)
    place.lose()
    place.restore()
    await launcher.start(plan())
    second = await launcher.observe(first.seq, 60)
    assert second.boot != first.boot
    assert [p.uid for p in second.processes] == ["a"]


async def test_a_place_that_hangs_is_unavailable_and_usable_once_it_goes_on(place, plan):
    launcher = place.launcher(answer_s=0.2)
    await launcher.tail("a", 1)
    place.freeze()
    try:
        with pytest.raises(Unavailable):
            await launcher.start(plan())
        with pytest.raises(Unavailable):
            await launcher.observe(0, 0.1)
    finally:
        place.thaw()
    patient = place.launcher()
    assert len((await patient.observe(0, 0)).processes) <= 1
    await launcher.tail("a", 1)


async def test_many_orders_at_once_get_their_own_answers(launcher, plan):
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            script = {"prints": [str(number)]}
            group.create_task(launcher.start(plan(f"job-{number}", script=script)))
    found = await until(launcher, lambda f: all(p.announced for p in f.values()))
    assert len(found) == 20
    tails = await asyncio.gather(*(launcher.tail(f"job-{n}", 1) for n in range(20)))
    assert tails == [(str(number),) for number in range(20)]
