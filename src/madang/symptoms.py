"""What a node tells of its accelerators: its watch writes it, planning reads it.

The watch is a process of the node's supervisor with the uid `accelerators`. It announces one JSON
object, and again whenever something in it has changed:

    {"watch": {"boot": "4f1c…", "tools": {"nvidia": ""}, "unread": ["kernel-log: …"],
               "devices": {"GPU-8d2f…": {"serial": "1652…", "xids": [[79, 4112]]}}}}

Beside it stands how busy they are, in percent over the last minute, of those of which it is known:

    {"watch": {…}, "busy": {"GPU-8d2f…": 37}}

Symptoms only, no judgement: what follows from them is decided in `planning.fencing`. Standard
library only. What is damaged is left out, and everything has a bound: a watch that lies can say
that an accelerator is ill, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

UID = "accelerators"
"""Of the process that watches a node's."""
DEVICES_MAX = 256
XIDS_MAX = 16
"""The newest of each device are told."""
TEXT_CHARS_MAX = 128
NUMBER_MAX = 2**53
HUNG = "hung"
"""Said of a tool that did not answer in time."""


@dataclass(frozen=True, slots=True)
class Symptoms:
    """What one accelerator shows."""

    serial: str = ""
    xids: tuple[tuple[int, int], ...] = ()
    """(number, mark) of each line of the kernel's log about it, oldest first; marks only grow."""
    uncorrectable: int = 0
    """Memory errors since its driver was loaded that could not be corrected."""
    remap: str = ""
    """`pending`: rows of its memory are replaced with the next reset; `failed`: they can't be."""
    recovery: str = ""
    """What its driver asks for: `reset`, `reboot`, `drain`; empty: nothing."""
    is_hot: bool = False
    """It has been slowed down, above its limit, for so long that this is no peak."""
    is_halted: bool = False
    """Its own tool says that it works on nothing any more."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What one node tells."""

    boot: str = ""
    """The life of its kernel that the marks are of."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """By maker: empty where its tool answered, `hung` where not in time, else what went wrong."""
    devices: Mapping[str, Symptoms] = field(default_factory=dict)
    """By what a process is told to use it by: all that the tools list."""
    unread: tuple[str, ...] = ()
    """What could not be read, and why."""


def read(announced: Mapping[str, Any] | None) -> Watch | None:
    """Read what a watch has announced; None where it is none."""
    said = (announced or {}).get("watch")
    if not isinstance(said, dict):
        return None
    devices = said.get("devices")
    tools, unread = said.get("tools"), said.get("unread")
    listed = list(devices.items())[:DEVICES_MAX] if isinstance(devices, dict) else []
    return Watch(
        boot=_text(said.get("boot")),
        tools={
            _text(maker): _text(cause)
            for maker, cause in (list(tools.items())[:16] if isinstance(tools, dict) else ())
        },
        devices={_text(name): _symptoms(each) for name, each in listed if isinstance(each, dict)},
        unread=tuple(map(_text, unread[:4] if isinstance(unread, list) else ())),
    )


def busy(announced: Mapping[str, Any] | None) -> dict[str, float]:
    """Read how busy accelerators are, 0 to 1, by what a process is told to use them by.

    >>> busy({"busy": {"gpu0": 37, "gpu1": 101, "gpu2": True}})
    {'gpu0': 0.37}
    """
    said = (announced or {}).get("busy")
    listed = list(said.items())[:DEVICES_MAX] if isinstance(said, dict) else []
    return {
        _text(name): percent / 100 for name, percent in listed if _is_number(percent)
        and percent <= 100
    }  # fmt: skip


def _symptoms(said: Mapping[str, Any]) -> Symptoms:
    xids = said.get("xids")
    pairs = [pair for pair in xids if _is_pair(pair)] if isinstance(xids, list) else []
    count: Any = said.get("uncorrectable")
    return Symptoms(
        serial=_text(said.get("serial")),
        xids=tuple((number, mark) for number, mark in pairs[-XIDS_MAX:]),
        uncorrectable=count if _is_number(count) else 0,
        remap=_text(said.get("remap")),
        recovery=_text(said.get("recovery")),
        is_hot=said.get("is_hot") is True,
        is_halted=said.get("is_halted") is True,
    )


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < NUMBER_MAX


def _text(value: object) -> str:
    return value[:TEXT_CHARS_MAX] if isinstance(value, str) and value.isprintable() else ""


def written(watch: Watch) -> dict[str, Any]:
    """Write what a watch announces; what is as usual is left out.

    >>> read(written(Watch("b", {}, {"gpu0": Symptoms(xids=((79, 3),))}))).devices["gpu0"].xids
    ((79, 3),)
    """
    devices = {name: _said(each) for name, each in watch.devices.items()}
    told = {"boot": watch.boot, "tools": dict(watch.tools), "devices": devices}
    return {"watch": told | ({"unread": list(watch.unread)} if watch.unread else {})}


def _said(each: Symptoms) -> dict[str, Any]:
    found = {spec.name: getattr(each, spec.name) for spec in fields(each)}
    found["xids"] = [list(pair) for pair in each.xids[-XIDS_MAX:]]
    return {name: value for name, value in found.items() if value}
