"""An event loop whose clock jumps to whatever is due next: no threads, no sockets, no waiting.

What the product asks of its loop is where the simulation comes in: time, work that would block in
a thread, and connections to UNIX sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from typing import Any

START_S = 1_000.0

Work = Callable[..., Any]
LIFE: ContextVar[Life | None] = ContextVar("life", default=None)
"""The simulated operating-system process that the running code belongs to."""


class Life:
    """All tasks of one simulated process, so that it can be killed as a whole."""

    def __init__(self) -> None:
        self.is_over = False
        self.at_end: list[Callable[[], None]] = []
        """What the operating system does once it is over, as closing what it had open."""
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run this, and whatever it starts, as a part of this process."""
        context = copy_context()
        context.run(LIFE.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def enlist(self, task: asyncio.Task[Any]) -> None:
        """Count a task as this process's."""
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        if self.is_over:
            _cancel_soon(task)

    def end(self) -> None:
        """Kill it. Whatever its tasks still do on their way out must reach nobody."""
        self.is_over = True
        for task in list(self._tasks):
            _cancel_soon(task)
        while self.at_end:
            self.at_end.pop()()


def _cancel_soon(task: asyncio.Task[Any]) -> None:
    """Cancel a task once it has begun: what never begins is complained of."""
    asyncio.get_running_loop().call_soon(task.cancel)


def _make_task(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, Any],
    context: Context | None = None,
    **more: Any,
) -> asyncio.Task[Any]:
    task = asyncio.Task(work, loop=loop, context=context, **more)
    life = context.get(LIFE) if context else LIFE.get()
    if life:
        life.enlist(task)
    return task


class VirtualLoop(asyncio.BaseEventLoop):
    """Time passes only when nothing is left to do at this moment."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self
        self._now_s = START_S
        self.takes_s: Callable[[Work, tuple[Any, ...]], float] = lambda *_: 0.0
        """How long a piece of blocking work takes."""
        self.dial: Callable[[str, asyncio.BaseProtocol], Any] = _nobody
        """(name of the node, protocol) -> its transport, awaited."""
        self.set_task_factory(_make_task)  # type: ignore[arg-type]

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now_s

    def select(self, timeout: float | None) -> tuple[()]:
        """Let time pass until the next timer, at once."""
        if timeout is None:
            raise RuntimeError("nothing is due, ever")
        self._now_s += timeout
        return ()

    def _process_events(self, events: object) -> None:
        """Nothing comes from outside."""

    def _write_to_self(self) -> None:
        """Nobody else could wake it."""

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Work, *args: Any
    ) -> asyncio.Future[Any]:
        """Do blocking work in the loop itself, after the time that it takes."""
        del executor

        async def work() -> Any:
            await asyncio.sleep(self.takes_s(func, args))
            return func(*args)

        return self.create_task(work())

    async def create_unix_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], path: str, **more: Any
    ) -> tuple[Any, asyncio.BaseProtocol]:
        """Connect to the node whose home the path lies in."""
        del more
        home = Path(path).parent.resolve().parent
        protocol = protocol_factory()
        return await self.dial(home.name, protocol), protocol


async def _nobody(node: str, protocol: asyncio.BaseProtocol) -> None:
    raise ConnectionRefusedError(node, protocol)
