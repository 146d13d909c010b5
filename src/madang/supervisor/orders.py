"""What each order of the protocol does. Knows no sockets; a hostile order ends in a `Refused`."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from madang.supervisor import logring
from madang.supervisor.children import Children, Refused
from madang.supervisor.journal import Journal
from madang.supervisor.protocol import (
    LINE_BYTES_MAX,
    VERSION,
    LaunchPlan,
    Process,
    encode,
    plan_from,
)

WAIT_SECONDS_MAX = 60.0
GRACE_SECONDS_MAX = 3600.0
TAIL_LINES_MAX = 1000
_UID = re.compile(r"[a-z0-9-]{1,63}")
_DEFAULTS = Process("", -1, "waiting")


class Orders:
    """Carries out orders on the children, and keeps an older control from giving any."""

    def __init__(self, children: Children, journal: Journal) -> None:
        self._children = children
        self._journal = journal
        self._boot = os.urandom(8).hex()

    def carry_out(self, order: Mapping[str, Any]) -> dict[str, Any] | None:
        """Do what it says; return the answer's `ok`, or None: wait for a change. Raises Refused."""
        if order.get("v") != VERSION:
            raise Refused("supervisor.bad-order", problem=f"v must be {VERSION}")
        self._check_term(_number(order, "term"))
        verb = order.get("verb")
        if verb == "start":
            return _brief(self._children.start(read_plan(order.get("plan"))))
        if verb == "observe":
            waits = order.get("after") == self._children.seq and wait_s(order) > 0
            return None if waits else self.observation()
        if verb not in ("stop", "tail", "signal"):
            raise Refused("supervisor.bad-order", problem="unknown verb")
        uid = _uid(order.get("uid"))
        if verb == "tail":
            lines = min(_number(order, "lines"), TAIL_LINES_MAX)
            return {"lines": logring.tail(uid, lines)}
        epoch = _number(order, "epoch")
        if verb == "stop":
            stopped = self._children.stop(uid, epoch, _seconds(order, "grace_s", GRACE_SECONDS_MAX))
            return _brief(stopped) if stopped else {}
        number = getattr(signal.Signals, str(order.get("signal")), None)
        if not isinstance(number, signal.Signals):
            raise Refused("supervisor.bad-order", uid, problem="unknown signal")
        return _brief(self._children.send(uid, epoch, number))

    def observation(self) -> dict[str, Any]:
        """Return every process, with so few of the ended ones that it fits into one line."""
        processes = [_brief(process) for process in self._children.reports()]
        while True:
            seen = {"seq": self._children.seq, "boot": self._boot, "processes": processes}
            if len(encode(seen)) < LINE_BYTES_MAX - 1024:
                return seen
            ended = [p for p in processes if p["state"] == "exited"]
            for process in ended[: len(ended) // 4 + 1]:
                processes.remove(process)

    def _check_term(self, term: int) -> None:
        if term < self._journal.term:
            raise Refused("supervisor.stale-term", term=term, newest=self._journal.term)
        if term > self._journal.term:
            self._journal.term = term
            with suppress(OSError):  # a full disk must not make us blind; the next write keeps it
                self._children.record()


def read_plan(body: object) -> LaunchPlan:
    """Read a LaunchPlan of which every part has the right type; raises Refused."""
    try:
        if not isinstance(body, dict) or not isinstance(body.get("argv"), list):
            raise TypeError("no list argv")
        plan = plan_from(body)
        strings = [*plan.argv, *plan.env, *plan.env.values(), *plan.accelerators, plan.cwd or ""]
        for text in strings:
            if "\0" in text:
                raise ValueError("a NUL character")
            text.encode()
        _uid(plan.uid)
        _number({"epoch": plan.epoch}, "epoch")
        _seconds({"grace_s": plan.grace_s}, "grace_s", GRACE_SECONDS_MAX)
    except (TypeError, ValueError, AttributeError) as error:
        raise Refused("supervisor.bad-order", problem=f"plan: {error}"[:200]) from None
    if not plan.argv or plan.restart not in {"always", "never"}:
        raise Refused("supervisor.bad-order", plan.uid, problem="plan: argv or restart")
    return plan


def read_order(line: bytes) -> dict[str, Any]:
    """Read one line; raises Refused for what is no JSON object."""
    try:
        order = json.loads(line)
    except (ValueError, RecursionError):
        order = None
    if not isinstance(order, dict):
        raise Refused("supervisor.bad-order", problem="not a JSON object")
    return order


def wait_s(order: Mapping[str, Any]) -> float:
    """For how long an observe may wait; raises Refused."""
    return _seconds(order, "wait_s", WAIT_SECONDS_MAX)


def _seconds(order: Mapping[str, Any], name: str, most: float) -> float:
    value = order.get(name)
    if not isinstance(value, int | float) or not value >= 0:
        raise Refused("supervisor.bad-order", problem=f"{name} must be seconds")
    return float(min(value, most))


def _number(order: Mapping[str, Any], name: str) -> int:
    value = order.get(name)
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise Refused("supervisor.bad-order", problem=f"{name} must be a whole number")
    return value


def _uid(value: object) -> str:
    if not isinstance(value, str) or not _UID.fullmatch(value):
        raise Refused("supervisor.bad-order", problem="uid must match [a-z0-9-]{1,63}")
    return value


def _brief(process: Process) -> dict[str, Any]:
    """Write a process without what its reader knows by default."""
    kept = {name: getattr(process, name) for name in Process.__slots__}
    return {k: v for k, v in kept.items() if k == "state" or v != getattr(_DEFAULTS, k)}
