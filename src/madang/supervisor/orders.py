"""What each order of the protocol does. Knows no sockets; a hostile order ends in a `Refused`."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from madang.supervisor import protocol
from madang.supervisor.children import Children, Refused
from madang.supervisor.protocol import (
    LINE_BYTES_MAX,
    RANKS_MAX,
    VERSION,
    LaunchPlan,
    Patience,
    Process,
    Rank,
    Sandbox,
    encode,
)

TAIL_LINES_MAX = 1000
STORES_MAX = 100
"""States that were lost, and whose controls are refused for good."""
SECONDS_MAX = 3600.0
"""Bounds of a tail, and of a grace or a wait; more is cut to it."""
RANK_NUMBER_MAX = 1 << 20
ENV_CHARS_MAX = 64 << 10
"""Of one rank, names and values."""
PATH_CHARS_MAX = 1024
PATHS_MAX = 256
TAKEN = frozenset({
    "/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr",
})  # fmt: skip
"""Where a sandbox has its system: nothing may be seen there, or below, in its place."""
"""In one sandbox."""
_UNSAID = Process("", -1, "waiting")
_UNSAID_OF_RANK = Rank(-1)


class Orders:
    """Carries out orders on the children, and keeps an older control from giving any."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._store, self._term = "", 0  # not kept: at our start no earlier control is alive
        self._past: set[str] = set()
        self._boot = os.urandom(8).hex()

    def carry_out(self, order: dict[str, Any]) -> dict[str, Any] | None:
        """Do what it says; return the answer's `ok`, or None: wait for a change. Raises Refused."""
        term, store = order.get("term"), order.get("store", "")
        if order.get("v") != VERSION or not isinstance(term, int) or not isinstance(store, str):
            raise Refused("supervisor.bad-order", problem="v, term or store")
        self._heed(term, store)
        match order:
            case {"verb": "start", "plan": dict(body)}:
                return self._now(self._children.start(read_plan(body)))
            case {"verb": "stop", "uid": uid, "epoch": int(epoch), "grace_s": grace_s}:
                return self._now(self._children.stop(_name(uid), epoch, seconds(grace_s)))
            case {"verb": "observe", "after": after, "wait_s": wait_s}:
                waits = after == self._children.seq and seconds(wait_s) > 0
                return None if waits else self.observation()
            case {"verb": "tail", "uid": uid, "lines": int(lines)}:
                rank, first = order.get("rank"), order.get("first") is True
                if rank is None or isinstance(rank, int):
                    most = min(lines, TAIL_LINES_MAX)
                    return self._children.tail(_name(uid), most, rank, first)
            case {
                "verb": "progress",
                "uid": uid,
                "epoch": int(epoch),
                "rank": int(rank),
                "after": int(after),
            }:
                return self._children.progress(_name(uid), epoch, rank, max(after, 0))
            case {"verb": "signal", "uid": uid, "epoch": int(epoch), "signal": str(name)}:
                if name in signal.Signals.__members__:
                    number = signal.Signals[name]
                    return self._now(self._children.send(_name(uid), epoch, number))
        raise Refused("supervisor.bad-order", problem="no such order")

    def observation(self) -> dict[str, Any]:
        """Return every process, with so few of the ended ones that it fits into one line.

        Raises Refused while everything is ended on purpose: nobody should take that for crashes.
        """
        if self._children.closing:
            raise Refused("supervisor.closing")
        found = [brief(process) for process in self._children.reports()]
        while len(encode({"": found})) > LINE_BYTES_MAX - 1024:
            if ended := [process for process in found if process["state"] == "exited"]:
                found = [p for p in found if p not in ended[: len(ended) // 4 + 1]]
            else:
                for rank in (rank for p in found for rank in p.get("ranks", ())):
                    rank.pop("metrics", None)  # the rest of all that may live fits
        return self._now() | {"processes": found}

    def _now(self, process: Process | None = None) -> dict[str, Any]:
        return {"seq": self._children.seq, "boot": self._boot} | brief(process)

    def _heed(self, term: int, store: str) -> None:
        """Refuse an older control; terms of a state that was lost and made anew begin low."""
        is_new = store != self._store and store not in self._past
        if not is_new and (store != self._store or term < self._term):
            raise Refused("supervisor.stale-term", term=term, newest=self._term)
        if is_new and len(self._past) < STORES_MAX:
            self._past.add(self._store)
        self._store, self._term = store, term


def read_order(line: bytes) -> dict[str, Any]:
    """Read one line; raises Refused for what is no JSON object."""
    with suppress(ValueError, RecursionError):
        order = json.loads(line)
        if isinstance(order, dict):
            return order | {"id": order["id"] if isinstance(order.get("id"), int) else None}
    raise Refused("supervisor.bad-order", problem="no JSON object")


def answered(
    order: dict[str, Any], work: Callable[[], dict[str, Any] | None]
) -> dict[str, Any] | None:
    """Return what an order is answered with; None: it waits for a change."""
    try:
        done = work()
    except Refused as no:
        error = {"code": no.code, "subject": no.subject, "values": no.values}
        return {"id": order.get("id"), "error": error}
    return None if done is None else {"id": order.get("id"), "ok": done}


def read_plan(body: dict[str, Any]) -> LaunchPlan:
    """Read what we use of a plan ourselves; the kernel judges the rest. Raises Refused."""
    try:
        plan = protocol.plan_from(body)
    except TypeError as error:
        raise Refused("supervisor.bad-order", problem=str(error)[:200]) from None
    match body:
        case {"epoch": int(), "argv": [str(), *_]} if plan.restart in ("always", "never"):
            _name(plan.uid)
            plan = replace(plan, grace_s=seconds(plan.grace_s))
            if all(isinstance(name, str) for name in plan.accelerators):
                return _member(plan) if plan.ranks or plan.sandbox else plan
    raise Refused("supervisor.bad-order", problem="epoch, argv, restart or accelerators")


def _member(plan: LaunchPlan) -> LaunchPlan:
    """Check what only a member of a gang has; raises Refused."""
    numbers = [each.rank for each in plan.ranks]
    folder, limits = plan.progress, [getattr(plan.patience, n) for n in Patience.__slots__]
    fine = {
        "ranks": 0 < len(numbers) <= RANKS_MAX
        and _are(int, numbers)
        and all(0 <= number <= RANK_NUMBER_MAX for number in numbers)
        and len(set(numbers)) == len(numbers),
        "env": all(_is_env(env) for env in (plan.env, *(each.env for each in plan.ranks))),
        "argv": _are(str, plan.argv),
        "restart": plan.restart == "never",
        "progress": folder == "" or _is_path(folder),
        "patience": _are(int | float, limits) and all(0 <= limit < 1e9 for limit in limits),
        "sandbox": plan.sandbox is None or _is_sandbox(plan.sandbox),
    }
    for problem, is_fine in fine.items():
        if not is_fine:
            raise Refused("supervisor.bad-order", plan.uid, problem=problem)
    return plan


def _are(kind: Any, values: Iterable[object]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _is_path(path: object) -> bool:
    """Tell whether it is a path from the root, and nothing that could be taken for an option."""
    if not isinstance(path, str) or len(path) > PATH_CHARS_MAX:
        return False
    return path.startswith("/") and path.isprintable() and ".." not in path.split("/")


def _is_free(place: str) -> bool:
    """Tell whether something may be seen at a place without hiding what the system has there."""
    first = place.split("/")[1]
    return bool(first) and f"/{first}" not in TAKEN


def _is_sandbox(box: Sandbox) -> bool:
    mounted = [path for mount in box.mounts for path in (mount.source, mount.place)]
    paths = (*box.reads, *box.writes, *box.devices, *mounted)
    sizes = (box.shm_bytes, box.tmp_bytes, box.file_bytes, box.data_bytes, box.processes, box.uid)
    return (
        len(paths) <= PATHS_MAX
        and all(map(_is_path, paths))
        and all(_is_free(mount.place) for mount in box.mounts)
        and _are(bool, [mount.is_writable for mount in box.mounts])
        and box.network in ("private", "shared")
        and _are(int, sizes)
        and all(0 <= size < 1 << 60 for size in sizes)
        and box.uid < 1 << 31
        and min(box.shm_bytes, box.tmp_bytes) > 0
    )


def _is_env(env: object) -> bool:
    """Tell whether it is an environment, of a size that every machine takes."""
    words: list[Any] = [*env.keys(), *env.values()] if isinstance(env, dict) else [None]
    return _are(str, words) and sum(map(len, words)) <= ENV_CHARS_MAX


def seconds(value: object) -> float:
    """Read a time; raises Refused."""
    if isinstance(value, int | float) and value >= 0:
        return min(value, SECONDS_MAX)
    raise Refused("supervisor.bad-order", problem="not seconds")


def _name(value: object) -> str:
    """Read a uid, which is also the name of a file."""
    if isinstance(value, str) and re.fullmatch("[a-z0-9-]{1,63}", value):
        return value
    raise Refused("supervisor.bad-order", problem="uid must match [a-z0-9-]{1,63}")


def brief(process: Process | None) -> dict[str, Any]:
    """Write a process without what its reader knows by default."""
    kept = _said(process, _UNSAID) | {"state": process.state} if process else {}
    if process and process.ranks:
        kept["ranks"] = [_said(rank, _UNSAID_OF_RANK) for rank in process.ranks]
    return kept


def _said(found: Process | Rank, unsaid: Process | Rank) -> dict[str, Any]:
    kept = {name: getattr(found, name) for name in found.__slots__}
    return {name: value for name, value in kept.items() if value != getattr(unsaid, name)}
