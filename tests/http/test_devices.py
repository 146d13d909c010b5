"""What a job sees of the accelerators of its node: its own, by their files, and no other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from madang.ports import Found
from madang.settings import Home
from madang.supervisor.protocol import LaunchPlan
from madang.testing.control import CPU

from .conftest import DEADLINE_S, Yard, opened

CARDS = [
    Found(
        f"gpu{n}", "nvidia/h100-80gb-hbm3", 80 * 10**9, shared=False, device=f"GPU-{n}",
        attributes={"file": f"/dev/nvidia{n + 4}"},
    )
    for n in range(2)
]  # fmt: skip
"""The numbers of the files are not those in which the devices are found."""


async def started(yard: Yard, name: str, **needs: object) -> LaunchPlan:
    """Submit a job, and return how its only member was started."""
    before = set(yard.node.plans)
    await yard.apply({"kind": "job", "name": name, "command": "true", "needs": needs})
    async with asyncio.timeout(DEADLINE_S):
        while not (new := set(yard.node.plans) - before):
            await yard.desk.world.moved(yard.desk.world.tick, 0.1)
    return yard.node.plans[new.pop()]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "home").mkdir(mode=0o700)
    return Home(tmp_path / "home")


async def test_a_job_sees_the_files_of_its_own_accelerators_and_of_no_other(home: Home) -> None:
    async with opened(home, found=(CPU, *CARDS)) as yard:
        yard.desk.world.encloses = True
        first, other = [await started(yard, n, accelerator="nvidia") for n in ("one", "two")]
        none = await started(yard, "none", cores=1)
    assert none.sandbox
    assert {first.env["CUDA_VISIBLE_DEVICES"], other.env["CUDA_VISIBLE_DEVICES"]} == {
        "GPU-0", "GPU-1",
    }  # fmt: skip
    for each in (first, other):
        assert each.sandbox
        number = int(each.env["CUDA_VISIBLE_DEVICES"].removeprefix("GPU-")) + 4
        files = [path for path in each.sandbox.devices if path[-1].isdigit()]
        assert files == [f"/dev/nvidia{number}"]
        assert {"/dev/nvidiactl", "/dev/nvidia-uvm"} <= set(each.sandbox.devices)
    assert none.sandbox.devices == ()
    assert "CUDA_VISIBLE_DEVICES" not in none.env


async def test_in_a_sandbox_a_job_has_a_name_without_a_file_of_names(home: Home) -> None:
    """PyTorch's compiler, and its deterministic mode, end without one."""
    async with opened(home) as yard:
        bare = await started(yard, "bare", cores=1)
        yard.desk.world.encloses = True
        enclosed = await started(yard, "enclosed", cores=1)
    assert (enclosed.env["USER"], enclosed.env["LOGNAME"]) == ("nobody", "nobody")
    assert "USER" not in bare.env
