"""What of the processor we may use, on machines that are folders."""

from __future__ import annotations

import pytest

from madang.accelerators.cpu import Cpu

GIB = 1 << 30
CPUINFO = """processor : 0
model name : AMD EPYC 9554
flags : fpu sse4_2 avx2 avx512f

processor : 1
model name : another
"""


@pytest.fixture
def machine(tmp_path):
    """A function that writes a file of the machine; it has 24 GiB and no control groups."""

    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", f"MemTotal:       {24 * GIB // 1024} kB\nMemFree: 1 kB\n")
    write("proc/cpuinfo", CPUINFO)
    return write


def found(tmp_path, affinity=8):
    (one,) = Cpu(tmp_path, affinity).find()
    return one


def test_a_bare_machine_is_one_shared_cpu_with_all_its_memory(machine, tmp_path):
    one = found(tmp_path)
    assert (one.name, one.kind, one.shared, one.device) == ("cpu0", "cpu", True, "")
    assert one.memory_bytes == 24 * GIB
    assert one.attributes == {
        "cores": 8,
        "model": "AMD EPYC 9554",
        "avx2": 1,
        "avx512": 1,
        "amx": 0,
    }


def test_the_least_limit_of_the_groups_around_us_counts(machine, tmp_path):
    machine("proc/self/cgroup", "0::/user/job\n")
    machine("sys/fs/cgroup/memory.max", "max\n")
    machine("sys/fs/cgroup/user/memory.max", f"{4 * GIB}\n")
    machine("sys/fs/cgroup/user/job/memory.max", f"{8 * GIB}\n")
    assert found(tmp_path).memory_bytes == 4 * GIB


def test_a_limit_of_version_1_counts_and_no_limit_does_not(machine, tmp_path):
    machine("proc/self/cgroup", "4:memory:/job\n1:cpu,cpuacct:/job\n0::/\n")
    machine("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert found(tmp_path).memory_bytes == 24 * GIB
    machine("sys/fs/cgroup/memory/job/memory.limit_in_bytes", f"{2 * GIB}\n")
    assert found(tmp_path).memory_bytes == 2 * GIB


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("350000 100000", 3), ("50000 100000", 1), ("1600000 100000", 8)],
)
def test_a_processor_quota_is_rounded_down_but_never_to_nothing(machine, tmp_path, quota, cores):
    machine("proc/self/cgroup", "0::/job\n")
    machine("sys/fs/cgroup/job/cpu.max", f"{quota}\n")
    assert found(tmp_path).attributes["cores"] == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("250000", 2)])
def test_a_quota_of_version_1_counts_as_well(machine, tmp_path, quota, cores):
    machine("proc/self/cgroup", "3:cpu,cpuacct:/job\n")
    machine("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", f"{quota}\n")
    machine("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n")
    assert found(tmp_path).attributes["cores"] == cores


def test_this_machine_has_a_processor_and_memory():
    (one,) = Cpu().find()
    assert one.memory_bytes > 0
    assert int(one.attributes["cores"]) >= 1
