"""Traces of placement: nodes and pods as CSV, in the columns of the openb trace.

Nodes: `sn, cpu_milli, memory_mib, gpu, model`. Pods: `name, cpu_milli, memory_mib, num_gpu,
gpu_milli`, and where the list has them `gpu_spec` (allowed models, joined by `|`; empty: any) and
`creation_time` (seconds). Other columns are not read.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from madang.errors import Rejected
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Fleet, Host, Kind

WHOLE = 1000
NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
POD_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
DEVICES_MAX = 64
AMOUNT_MAX = 1 << 50
LINE_CHARACTERS_MAX = 1 << 17
MORE = "\0"
"""Where a row of more values than columns has the rest."""
NO_MODEL = "-"
"""The kind of hosts without a device."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One arrival."""

    demand: Demand
    created_s: float

    @property
    def milli(self) -> int:
        """Thousandths of devices that it asks for."""
        return self.demand.devices * max(self.demand.parts, default=0)


@contextmanager
def opened(file: str) -> Iterator[Iterator[str]]:
    """Open a CSV, gzipped or not; `-` is standard input."""
    path = Path(file).expanduser()
    try:
        stdin = nullcontext(cast("io.BufferedReader", sys.stdin.buffer))
        with stdin if file == "-" else path.open("rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            stream = gzip.GzipFile(fileobj=raw) if packed else raw
            lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            try:
                yield _bounded(lines, file)
            finally:
                lines.detach()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise Rejected("twin.unreadable", subject=file, cause=str(error)) from None


def _bounded(lines: io.TextIOWrapper, file: str) -> Iterator[str]:
    number = 0
    while line := lines.readline(LINE_CHARACTERS_MAX):
        number += 1
        if len(line) == LINE_CHARACTERS_MAX:
            raise Rejected("twin.long-line", file=file, line=number, limit=LINE_CHARACTERS_MAX)
        yield line


def read_fleet(lines: Iterable[str], file: str) -> Fleet:
    """Read a node list."""
    rows = [(_amounts(row, line, file, NODE_COLUMNS[1:4]), row["sn"], row["model"])
            for line, row in read_rows(lines, file, NODE_COLUMNS)]  # fmt: skip
    models = [model or NO_MODEL for _, _, model in rows]
    kinds = sorted(set(models))
    hosts = [
        Host(name, cpu, memory, kinds.index(model), (WHOLE,) * gpus)
        for ((cpu, memory, gpus), name, _), model in zip(rows, models, strict=True)
    ]
    return Fleet.of([Kind(name, WHOLE) for name in kinds], hosts)


def read_pods(lines: Iterable[str], file: str, kinds: Sequence[Kind]) -> list[Pod]:
    """Read a pod list for a fleet of these kinds; models that it doesn't have fit nowhere."""
    pods = []
    for line, row in read_rows(lines, file, POD_COLUMNS):
        cpu, memory, devices, milli = _amounts(row, line, file, POD_COLUMNS[1:])
        if milli > WHOLE or (devices and not milli):
            raise bad_row(file, line, "gpu_milli", row["gpu_milli"])
        if devices > DEVICES_MAX:
            raise bad_row(file, line, "num_gpu", row["num_gpu"])
        spec = {model for model in (row.get("gpu_spec") or "").split("|") if model}
        parts = tuple(
            milli if devices and kind.name != NO_MODEL and (not spec or kind.name in spec) else 0
            for kind in kinds
        )
        created = row.get("creation_time") or ""
        try:
            created_s = float(created) if created else -1.0
        except ValueError:
            raise bad_row(file, line, "creation_time", created) from None
        pods.append(Pod(Demand(cpu, memory, devices, parts), created_s))
    return pods


def read_rows(
    lines: Iterable[str], file: str, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV that has these columns, each with the number of its line."""
    reader = csv.DictReader(lines, restval="", restkey=MORE)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        missing = [c for c in columns if c not in reader.fieldnames]
        if missing:
            raise Rejected("twin.columns", file, columns=", ".join(missing))
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise Rejected("twin.bad-csv", file=file, line=reader.line_num, cause=str(error)) from None


def _amounts(row: dict[str, str], line: int, file: str, columns: Sequence[str]) -> tuple[int, ...]:
    out = []
    for column in columns:
        text = (row[column] or "").strip()
        if not text.isascii() or not text.isdigit() or int(text[:20]) > AMOUNT_MAX:
            raise bad_row(file, line, column, text)
        out.append(int(text))
    return tuple(out)


def bad_row(file: str, line: int, column: str, text: str) -> Rejected:
    """Return what to raise about a value that can't be."""
    return Rejected("twin.bad-row", file=file, line=line, column=column, value=text[:40])
