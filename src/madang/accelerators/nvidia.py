"""NVIDIA's accelerators, as the driver's own library tells them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

from madang.ports import FILE, Found


class Nvidia:
    """Asks NVML; without the library or a driver there is nothing to find."""

    def __init__(self, library: str = "pynvml") -> None:
        self._library = library

    def find(self) -> Sequence[Found]:
        """Look, without side effects; a device that does not answer is left out."""
        try:
            nvml: Any = importlib.import_module(self._library)
        except ImportError:
            return ()
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return ()
        try:
            numbers = range(nvml.nvmlDeviceGetCount())
            return tuple(found for n in numbers if (found := _device(nvml, n)))
        except nvml.NVMLError:
            return ()
        finally:
            nvml.nvmlShutdown()


def slug(name: str) -> str:
    """Make a device's name into the second half of its kind.

    >>> slug("NVIDIA H100 80GB HBM3")
    'h100-80gb-hbm3'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")


def _device(nvml: Any, number: int) -> Found | None:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(number)
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        return Found(
            name=f"gpu{number}",
            kind=f"nvidia/{slug(_text(nvml.nvmlDeviceGetName(handle)))}",
            memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            shared=False,
            device=uuid,
            attributes={
                "uuid": uuid,
                "driver": _text(nvml.nvmlSystemGetDriverVersion()),
                "compute": f"{major}.{minor}",
                "mig": _mig(nvml, handle),
                **_file(nvml, handle),
            },
        )
    except nvml.NVMLError:
        return None


def _mig(nvml: Any, handle: Any) -> str:
    """Say whether the device is cut into parts: `on`, `off`, or `none` where it can't be."""
    try:
        return "on" if nvml.nvmlDeviceGetMigMode(handle)[0] else "off"
    except nvml.NVMLError:
        return "none"


def _file(nvml: Any, handle: Any) -> dict[str, str]:
    """Return the file without which no process reaches the device; its number may be any."""
    try:
        return {FILE: f"/dev/nvidia{nvml.nvmlDeviceGetMinorNumber(handle)}"}
    except nvml.NVMLError:
        return {}


def _text(value: str | bytes) -> str:
    """Older versions of the library give bytes."""
    return value.decode() if isinstance(value, bytes) else value
