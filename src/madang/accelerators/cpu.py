"""The processor as an accelerator: what this process may use of it, not what the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from madang.ports import Found

INSTRUCTION_SETS = {"avx2": "avx2", "avx512": "avx512f", "amx": "amx_tile"}
"""What we tell about a processor, and the kernel's flag for it."""


class Cpu:
    """Finds one shared `cpu0`, cut to the memory and processor limits of our control groups."""

    def __init__(self, root: Path = Path("/"), affinity: int | None = None) -> None:
        self._root = root
        self._affinity = affinity

    def find(self) -> Sequence[Found]:
        """Look, without side effects."""
        facts = _facts(self._read("proc/cpuinfo"))
        flags = facts.get("flags", "").split()
        return (
            Found(
                name="cpu0",
                kind="cpu",
                memory_bytes=self._memory_bytes(),
                shared=True,
                attributes={
                    "cores": self._cores(),
                    "model": facts.get("model name", "unknown"),
                    **{name: int(flag in flags) for name, flag in INSTRUCTION_SETS.items()},
                },
            ),
        )

    def _memory_bytes(self) -> int:
        total = int(_facts(self._read("proc/meminfo"))["MemTotal"].split()[0]) * 1024
        limits = [self._read(path / "memory.max") for path in self._groups("")]
        limits += [self._read(path / "memory.limit_in_bytes") for path in self._groups("memory")]
        return min([total, *(int(limit) for limit in limits if limit.strip().isdigit())])

    def _cores(self) -> int:
        """Whole processors: a rounded-up quota would make threads wait for each other."""
        quotas = [self._read(path / "cpu.max").split() for path in self._groups("")]
        for path in self._groups("cpu"):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quotas.append([self._read(path / name).strip() for name in names])
        whole = [int(q[0]) // int(q[1]) for q in quotas if len(q) == 2 and q[0].isdigit()]
        return max(1, min([self._affinity or len(os.sched_getaffinity(0)), *whole]))

    def _groups(self, controller: str) -> Iterator[Path]:
        """Give the folders of our control groups, from the inside out; '' is version 2."""
        for line in self._read("proc/self/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                inside = Path("sys/fs/cgroup", controller, path.lstrip("/"))
                yield from [inside, *inside.parents][: len(Path(path).parts)]

    def _read(self, path: str | Path) -> str:
        try:
            return (self._root / path).read_text()
        except OSError:
            return ""


def _facts(text: str) -> dict[str, str]:
    """Read `name: value` lines; the first of a name counts."""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts
