"""A person's own program as the ranks of a gang: torchrun's environment, and Madang's beside it.

Names and meaning of the variables are those of torchrun (PyTorch, "Environment Variables" of its
elastic launcher), so that a program written for it runs unchanged.
"""

from __future__ import annotations

from madang.ports import CODE, Member
from madang.resources.sweep import text, variable
from madang.supervisor.protocol import LaunchPlan, Patience, RankPlan, Sandbox

BASE = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
VISIBLE = {
    "nvidia": "CUDA_VISIBLE_DEVICES", "rebellions": "RBLN_DEVICES", "furiosa": "FURIOSA_DEVICES",
}  # fmt: skip
"""By vendor, the variable that says which devices a process sees."""
DEVICES = {
    "nvidia": ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"),
}
"""By vendor, the device files that all of its accelerators need, beside each one's own."""
NOBODY = {"USER": "nobody", "LOGNAME": "nobody"}
"""In a sandbox no file tells the name of a user number; PyTorch's compiler, for one, asks."""
PROCESSES_MAX = 4096
STALL_LEAST_S, STALL_STEPS, FIRST_STEP_S = 60.0, 5.0, 1800.0


def launch(member: Member) -> LaunchPlan:
    """Return how the ranks of one member of a gang are started on its node."""
    spec = member.job.spec
    count = spec.ranks_per_node
    own = {"HOME": member.cwd, "PYTHONPATH": member.library}
    own |= NOBODY if member.is_enclosed else {}
    shared = {**BASE, **own, **spec.env, **member.secrets, **_own(member)}
    if member.devices:
        vendor = member.accelerator_kind.partition("/")[0]
        shared |= {VISIBLE[vendor]: ",".join(member.devices)} if vendor in VISIBLE else {}
    stall_s = spec.resume.stall
    return LaunchPlan(
        uid=member.uid,
        epoch=member.attempt.spec.number,
        argv=spec.command,
        env=shared,
        cwd=spec.workdir or (CODE if spec.code and member.is_enclosed else member.cwd),
        accelerators=member.accelerators,
        progress=member.progress,
        patience=Patience(FIRST_STEP_S, STALL_LEAST_S, STALL_STEPS, stall_s or 0.0),
        ranks=tuple(_rank(member, local) for local in range(count)),
        sandbox=_sandbox(member) if member.is_enclosed else None,
        memory_bytes=spec.needs.host_memory,
    )


def _sandbox(member: Member) -> Sandbox:
    """Return what it sees of its node: its own folders, what it mounts, and its accelerators."""
    spec = member.job.spec
    vendor = member.accelerator_kind.partition("/")[0]
    return Sandbox(
        mounts=member.mounts,
        reads=(member.library,),
        writes=(member.cwd,) if spec.resume.source else (member.checkpoints, member.cwd),
        devices=(*DEVICES.get(vendor, ()), *member.files),
        network="private" if spec.nodes == 1 else "shared",
        uid=member.owner,
        data_bytes=spec.needs.host_memory,
        file_bytes=spec.file_size,
        processes=PROCESSES_MAX,
    )


def _own(member: Member) -> dict[str, str]:
    """Return what every rank of a gang is told alike."""
    job, attempt = member.job, member.attempt
    count = job.spec.ranks_per_node
    threads = max(1, int(member.cores // count))
    told = {
        "MASTER_ADDR": member.master,
        "MASTER_PORT": str(attempt.status.port),
        "NODE_RANK": str(member.number),
        "GROUP_RANK": str(member.number),
        "WORLD_SIZE": str(job.spec.nodes * count),
        "LOCAL_WORLD_SIZE": str(count),
        "TORCHELASTIC_RUN_ID": attempt.uid,
        "OMP_NUM_THREADS": str(threads),
        "MADANG_JOB": job.name,
        "MADANG_JOB_UID": job.uid,
        "MADANG_PROJECT": job.project,
        "MADANG_ATTEMPT": str(attempt.spec.number),
        "MADANG_CHECKPOINTS": member.checkpoints,
        "MADANG_CHECKPOINT_EVERY_S": f"{member.checkpoint_every_s:.0f}",
        "MADANG_STOP_FILE": f"{member.progress}/stop",
    }
    told |= {variable(name): text(value) for name, value in job.status.swept.items()}
    if attempt.spec.resume_from:
        told["MADANG_RESUME_FROM"] = f"{member.checkpoints}/{attempt.spec.resume_from}"
    if attempt.spec.resume_job:
        told["MADANG_RESUME_JOB"] = attempt.spec.resume_job
    return told


def _rank(member: Member, local: int) -> RankPlan:
    rank = member.number * member.job.spec.ranks_per_node + local
    return RankPlan(rank, {
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "MADANG_PROGRESS": f"{member.progress}/progress-{rank}.jsonl",
    })  # fmt: skip
