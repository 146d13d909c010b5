"""What the NVIDIA probe makes of the driver's library, which is a fake here."""

# ruff: noqa: N802 - the names are the library's

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from madang.accelerators.nvidia import Nvidia

GIB = 1 << 30


class NVMLError(Exception):
    pass


class Library(ModuleType):
    """NVML with two devices: one that can be cut into parts, one that can't."""

    NVMLError = NVMLError

    def __init__(self):
        super().__init__("fake_nvml")
        self.names = ["NVIDIA H200", b"Tesla T4"]
        self.driver = True
        self.lost: set[int] = set()
        self.open = 0

    def nvmlInit(self):
        if not self.driver:
            raise NVMLError("driver not loaded")
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):
        return "580.65.06"

    def nvmlDeviceGetCount(self):
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, number):
        if number in self.lost:
            raise NVMLError("GPU is lost")
        return number

    def nvmlDeviceGetName(self, handle):
        return self.names[handle]

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=(141 if handle == 0 else 16) * GIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return (9, 0) if handle == 0 else (7, 5)

    def nvmlDeviceGetMinorNumber(self, handle):
        if handle:
            raise NVMLError("not supported")
        return 3

    def nvmlDeviceGetMigMode(self, handle):
        if handle:
            raise NVMLError("not supported")
        return [1, 1]


@pytest.fixture
def library(monkeypatch):
    library = Library()
    monkeypatch.setitem(sys.modules, "fake_nvml", library)
    yield library
    assert library.open == 0


def test_every_device_is_found_with_what_planning_needs(library):
    big, small = Nvidia("fake_nvml").find()
    assert (big.name, big.kind, big.memory_bytes) == ("gpu0", "nvidia/h200", 141 * GIB)
    assert (big.shared, big.device) == (False, "GPU-0")
    assert big.attributes == {
        "uuid": "GPU-0",
        "driver": "580.65.06",
        "compute": "9.0",
        "mig": "on",
        "file": "/dev/nvidia3",
    }
    assert (small.name, small.kind) == ("gpu1", "nvidia/tesla-t4")
    assert small.attributes["mig"] == "none"
    assert "file" not in small.attributes, "one that does not tell is not guessed"


def test_a_lost_device_does_not_hide_the_others(library):
    library.lost = {0}
    assert [found.name for found in Nvidia("fake_nvml").find()] == ["gpu1"]


def test_without_a_driver_nothing_is_found(library):
    library.driver = False
    assert Nvidia("fake_nvml").find() == ()


def test_without_the_library_nothing_is_found():
    assert Nvidia("no_such_library").find() == ()


def test_the_real_library_says_something_or_nothing_but_never_fails():
    assert all(found.kind.startswith("nvidia/") for found in Nvidia().find())
