"""Accelerators of a simulated node that fall ill, and the watch that tells of it.

From its first illness on a node is watched, as real ones are from their start; so a fleet of
thousands in which nothing is ill costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from madang.supervisor.children import Refused
from madang.supervisor.protocol import Process
from madang.symptoms import UID, XIDS_MAX, Symptoms, Watch, written


@dataclass(slots=True)
class Illness:
    """What one accelerator shows, and what was ever logged of it."""

    shows: dict[str, Any] = field(default_factory=dict)
    xids: tuple[tuple[int, int], ...] = ()

    def symptoms(self, serial: str) -> Symptoms:
        """Return it as a watch tells it."""
        said = self.shows
        return Symptoms(
            serial=serial, xids=self.xids, uncorrectable=int(said.get("uncorrectable", 0)),
            remap=str(said.get("remap", "")), recovery=str(said.get("recovery", "")),
            is_hot=bool(said.get("hot")), is_halted=bool(said.get("halted")),
        )  # fmt: skip


class Ward:
    """The accelerators of one node, ill and well."""

    def __init__(self, node: str, devices: Mapping[str, str]) -> None:
        self._node = node
        self._makers = {
            device: kind.partition("/")[0] for device, kind in devices.items() if kind != "cpu"
        }
        self._ills: dict[str, Illness] = {}
        self._life, self._starts, self._marks = os.urandom(4).hex(), 0, 0

    def start(self) -> None:
        """Let the node start: whatever was ill is reset, and its kernel's log begins anew."""
        self._starts += 1
        self._ills = {device: Illness() for device in self._ills}

    def ail(self, device: str, shows: Mapping[str, Any]) -> None:
        """Let an accelerator show this and nothing else; what was logged stays logged."""
        if device not in self._makers:
            raise Refused("supervisor.bad-order", problem=f"no accelerator {device[:40]}")
        ill = self._ills.setdefault(device, Illness())
        ill.shows = dict(shows)
        if "xid" in shows:
            self._marks += 1
            ill.xids = (*ill.xids, (int(shows["xid"]), self._marks))[-XIDS_MAX:]

    def watch(self, busy: Mapping[str, int]) -> list[Process]:
        """Return what stands for the process that watches them, if anything was ever ill.

        It is there too where it is known how busy any is, and then tells nothing else.
        """
        if not self._ills:
            only = {"busy": dict(busy)}
            return [Process(UID, 1, "running", os.getpid(), announced=only)] if busy else []
        tools = dict.fromkeys(self._makers.values(), "")
        devices = {}
        for device, maker in self._makers.items():
            ill = self._ills.get(device) or Illness()
            tools[maker] = str(ill.shows.get("tool", "")) or tools[maker]
            if not ill.shows.get("gone"):
                devices[device] = ill.symptoms(f"sim-{self._node}-{device}")
        told = written(Watch(f"{self._life}-{self._starts}", tools, devices))
        told["busy"] = dict(busy)
        return [Process(UID, 1, "running", os.getpid(), announced=told)]
