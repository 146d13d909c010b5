"""What the tools of makers print about the health of their accelerators, read as symptoms.

NVIDIA: `nvidia-smi -q -x`. Rebellions: the table of `rbln-stat` (or `rbln-smi`), whose performance
state P10 stands for thermal throttling and P12 for a hang. FuriosaAI: the table of `furiosa-smi
info`, which tells what is there and how warm it is, and no more. NVIDIA's was run on an H100; the
others were read on made-up answers. Standard library only; what is no answer raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from madang.accelerators.kernel_log import bus_of
from madang.symptoms import DEVICES_MAX, Symptoms

NOTHING = ("", "n/a", "[n/a]", "unknown", "requested functionality has been deprecated")
RECOVERIES = {
    "reset": "reset",
    "reboot": "reboot",
    "drain p2p": "drain",
    "drain and reset": "drain",
}
UNCORRECTABLE = (
    "dram_uncorrectable", "sram_uncorrectable", "sram_uncorrectable_parity",
    "sram_uncorrectable_secded",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """What a tool says of one device."""

    device: str
    """By what a process is told to use it."""
    bus: str
    symptoms: Symptoms
    is_hot: bool = False
    """Slowed down by heat right now: whether that is more than a peak, time must show."""
    busy: float | None = None
    """How busy it was just now, in percent; None: the tool does not tell."""


def nvidia(answer: str) -> list[Told]:
    """Read `nvidia-smi -q -x`."""
    if "<!ENTITY" in answer:
        raise ValueError("an answer that defines entities")
    try:
        root = ElementTree.fromstring(answer)  # noqa: S314 - no entities, and a bounded answer
    except ElementTree.ParseError as error:
        raise ValueError(f"no XML: {error}") from None
    return [_gpu(each) for each in root.findall("gpu")[:DEVICES_MAX]]


def _gpu(gpu: ElementTree.Element) -> Told:
    volatile = gpu.find("ecc_errors/volatile")
    counted = [_number(_text(volatile, name)) for name in UNCORRECTABLE]
    counted.append(_number(_text(gpu, "ecc_errors/volatile/double_bit/total")))
    remap = ""
    if _text(gpu, "remapped_rows/remapped_row_pending") == "yes":
        remap = "pending"
    if _text(gpu, "remapped_rows/remapped_row_failure") == "yes":
        remap = "failed"
    found = Symptoms(
        serial=_raw(gpu, "serial"),
        uncorrectable=sum(each or 0 for each in counted),
        remap=remap,
        recovery=RECOVERIES.get(_text(gpu, "gpu_recovery_action"), ""),
    )
    used = _percent(_text(gpu, "utilization/gpu_util"))
    return Told(_raw(gpu, "uuid"), bus_of(gpu.get("id", "")), found, _is_hot(gpu), used)


def _is_hot(gpu: ElementTree.Element) -> bool:
    """Tell whether heat slows it down, at or above the temperature at which it begins to.

    Newer ones (seen: H100) tell by how much they are below it, and no such temperature.
    """
    slowed = any(
        _text(gpu, f"{kind}s/{kind}_hw_thermal_slowdown") == "active"
        for kind in ("clocks_event_reason", "clocks_throttle_reason")
    )
    now = _number(_text(gpu, "temperature/gpu_temp"))
    limit = _number(_text(gpu, "temperature/gpu_temp_slow_threshold"))
    return slowed and (now is None or limit is None or now >= limit)


def _raw(element: ElementTree.Element | None, path: str) -> str:
    found = element.find(path) if element is not None else None
    text = (found.text or "").strip() if found is not None else ""
    return "" if text.lower() in NOTHING else text


def _text(element: ElementTree.Element | None, path: str) -> str:
    return _raw(element, path).lower()


def _percent(text: str) -> float | None:
    """Read a share; what is none is not known.

    >>> _percent("37 %"), _percent("98.7"), _percent("n/a"), _percent("nan")
    (37.0, 98.7, None, None)
    """
    try:
        share = float(text.removesuffix("%").strip())
    except ValueError:
        return None
    return share if 0 <= share <= 100 else None


def _number(text: str) -> int | None:
    first = text.split(" ", maxsplit=1)[0]
    return int(first) if first.isdigit() else None


def rebellions(answer: str) -> list[Told]:
    """Read the first table of `rbln-stat`."""
    return [
        Told(
            row["device"], bus_of(row.get("pci bus id", "")),
            Symptoms(is_halted=row.get("perf") == "p12"), row.get("perf") == "p10",
            _percent(row.get("util", "")),
        )
        for row in _rows(answer, "npu")
    ]  # fmt: skip


def furiosa(answer: str) -> list[Told]:
    """Read the table of `furiosa-smi info`."""
    return [
        Told(row["device"], bus_of(row.get("pci-bdf", "")), Symptoms())
        for row in _rows(answer, "arch")
    ]


def _rows(answer: str, first: str) -> Iterator[Mapping[str, str]]:
    """Give the rows of the table whose first column has that title, by the titles in lower case."""
    titles: list[str] = []
    for line in answer.splitlines():
        cells = [cell.strip().lower() for cell in line.strip().strip("|").split("|")]
        if cells[0] == first:
            titles = cells
        elif titles and line.lstrip().startswith("|"):
            row = dict(zip(titles, cells, strict=False))
            if len(cells) != len(titles) or "device" not in row:
                return  # another table begins
            yield row
    if not titles:
        raise ValueError("no table of devices")


@dataclass(frozen=True, slots=True)
class Tool:
    """How a maker's tool is asked, and its answer read."""

    maker: str
    programs: tuple[tuple[str, ...], ...]
    """The first that is installed is run."""
    read: Callable[[str], list[Told]]


TOOLS = (
    Tool("nvidia", (("nvidia-smi", "-q", "-x"),), nvidia),
    Tool("rebellions", (("rbln-smi",), ("rbln-stat",)), rebellions),
    Tool("furiosa", (("furiosa-smi", "info"),), furiosa),
)
