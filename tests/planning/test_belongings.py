"""What a job needs beside room: the volumes, models and secrets that it names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from madang.resources.attempt import AttemptPhase
from madang.resources.job import Job, JobPhase
from madang.resources.resource import Ref
from madang.resources.secret import Secret, SecretStatus
from madang.resources.tenancy import Empty, Project, ProjectSpec, ProjectStatus
from madang.resources.volume import Volume, VolumeSpec, VolumeStatus
from madang.testing.builders import PROJECT, job, node, snapshot
from madang.testing.paper import Paper


def now(paper: Paper) -> Job:
    return paper.snapshot.jobs[Ref(PROJECT, "train")]


def test_what_it_mounts_must_be_there_and_a_sandbox_to_mount_it_in() -> None:
    mounted = job(mounts={"/data": "volume://corpus"})
    paper = Paper(snapshot(node("n", kind="cpu", shared=True), mounted))
    paper.settle()
    reasons = [now(paper).status.reason]
    paper.snapshot = replace(paper.snapshot, encloses=True)
    paper.settle()
    reasons.append(now(paper).status.reason)
    assert [each and each.code for each in reasons] == [
        "job.needs-sandbox", "job.nothing-to-mount",
    ]  # fmt: skip
    assert now(paper).status.blocked_by == "volume/corpus"
    paper.put(Volume(
        project=PROJECT, name="corpus", uid="volume-1", spec=VolumeSpec(), status=VolumeStatus()
    ))  # fmt: skip
    paper.settle()
    assert paper.attempts("train")[0].status.phase is AttemptPhase.RUNNING


def test_a_job_stops_when_its_volume_is_too_full_and_goes_on_when_that_may_be_larger() -> None:
    corpus = Volume(
        project=PROJECT, name="corpus", uid="volume-1", spec=VolumeSpec(size=10**9),
        status=VolumeStatus(used_bytes=10**9),
    )  # fmt: skip
    mounted = job(mounts={"/data": "volume://corpus"})
    start = snapshot(node("n", kind="cpu", shared=True), mounted)
    paper = Paper(replace(start, encloses=True))
    paper.put(corpus)
    paper.settle()
    assert paper.attempts("train")[0].status.phase is AttemptPhase.RUNNING
    stored = paper.snapshot.volumes[corpus.ref]
    paper.put(stored.with_status(used_bytes=10**9 + 1))
    paper.settle()
    status = now(paper).status
    assert (status.phase, status.attempt, status.blocked_by) == (
        JobPhase.WAITING, 1, "volume/corpus",
    )  # fmt: skip
    assert status.reason is not None
    assert status.reason.values["size_bytes"] == 10**9
    stored = paper.snapshot.volumes[corpus.ref]
    paper.put(stored.model_copy(update={"spec": VolumeSpec(size=2 * 10**9)}))
    paper.settle()
    assert now(paper).status.attempt == 2


def test_a_job_waits_for_the_secrets_that_it_names() -> None:
    paper = Paper(snapshot(node("n", kind="cpu", shared=True), job(secrets={"TOKEN": "token"})))
    paper.settle()
    status = now(paper).status
    assert (status.reason and status.reason.code, status.blocked_by) == (
        "job.no-secret", "secret/token",
    )  # fmt: skip
    paper.put(Secret(
        project=PROJECT, name="token", uid="secret-1", spec=Empty(), status=SecretStatus()
    ))  # fmt: skip
    paper.settle()
    assert paper.attempts("train")[0].status.phase is AttemptPhase.RUNNING


def saver(name: str = "train", **spec: object) -> Job:
    return job(name, mounts={"/ckpt": "volume://ckpt"}, **{"resume": {"from": "/ckpt"}, **spec})


def volume(**spec: object) -> Volume:
    return Volume(
        project=PROJECT, name="ckpt", uid="volume-ckpt", spec=VolumeSpec.model_validate(spec),
        status=VolumeStatus(),
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["/elsewhere", "/ckpt/../etc", "/ckpts", "/model/a"])
def test_checkpoints_lie_in_a_volume_that_is_mounted_or_in_a_folder_of_the_job(folder: str) -> None:
    mounts = {"/ckpt": "volume://ckpt", "/ckpt/deep": "volume://deep", "/model": "model://m"}
    assert job(mounts=mounts, resume={"from": "/ckpt/deep/a/b"}).spec.saves_in == ("deep", "a/b")
    assert job(mounts=mounts).spec.saves_in is None
    with pytest.raises(ValueError, match=r"saves-in-no-volume|folder-crooked"):
        job(mounts=mounts, resume={"from": folder})


def test_nobody_saves_where_nothing_may_be_changed() -> None:
    start = snapshot(node("n", kind="cpu", shared=True), [volume(read_only=True)], saver())
    paper = Paper(replace(start, encloses=True))
    paper.settle()
    reason = now(paper).status.reason
    assert reason is not None
    assert reason.code == "job.saves-read-only"
    assert now(paper).status.blocked_by == "volume/ckpt"


def test_two_jobs_never_save_in_one_folder_at_once() -> None:
    apart = saver("apart", resume={"from": "/ckpt/apart"})
    jobs = [saver("first"), saver("second"), apart]
    start = snapshot(node("n", kind="cpu", shared=True), [volume()], *jobs)
    paper = Paper(replace(start, encloses=True))
    paper.settle()
    phases = {ref.name: each.status.phase for ref, each in paper.snapshot.jobs.items()}
    assert phases == {
        "first": JobPhase.RUNNING, "second": JobPhase.WAITING, "apart": JobPhase.RUNNING,
    }  # fmt: skip
    second = paper.snapshot.jobs[Ref(PROJECT, "second")]
    assert second.status.blocked_by == "job/first"
    (attempt,) = paper.attempts("first")
    paper.tell(attempt, 0, exit_code=0, ended_at=paper.now, pid=0)
    paper.settle()
    assert paper.snapshot.jobs[Ref(PROJECT, "second")].status.phase is JobPhase.RUNNING


def project(isolation: str) -> Project:
    organization, _, name = PROJECT.partition("/")
    assert organization
    return Project(
        project=PROJECT, name=name, uid="project-1", status=ProjectStatus(),
        spec=ProjectSpec.model_validate({"isolation": isolation}),
    )  # fmt: skip


@pytest.mark.parametrize(("isolation", "nodes", "encloses", "why"), [
    ("none", 2, False, ""), ("sandbox", 2, True, ""), ("private-network", 1, True, ""),
    ("sandbox", 1, False, "job.demands-sandbox"),
    ("private-network", 1, False, "job.demands-sandbox"),
    ("private-network", 2, True, "job.demands-private-network"),
])  # fmt: skip
def test_a_job_runs_only_where_it_has_what_its_project_demands(
    isolation: str, nodes: int, encloses: bool, why: str
) -> None:
    machines = [node(f"n{number}", kind="cpu", shared=True) for number in range(nodes)]
    start = snapshot(*machines, [project(isolation)], job(nodes=nodes))
    paper = Paper(replace(start, encloses=encloses))
    paper.settle()
    reason = now(paper).status.reason
    assert (reason.code if reason else "") == why
    assert now(paper).status.phase is (JobPhase.WAITING if why else JobPhase.RUNNING)


def test_a_job_leaves_once_its_project_demands_what_it_has_not() -> None:
    paper = Paper(snapshot(node("n", kind="cpu", shared=True), [project("none")], job()))
    paper.settle()
    assert now(paper).status.phase is JobPhase.RUNNING
    stored = paper.snapshot.get(Project, project("none").ref)
    assert stored is not None
    paper.put(stored.model_copy(update={"spec": ProjectSpec.model_validate(
        {"isolation": "sandbox"})}))  # fmt: skip
    paper.settle()
    status = now(paper).status
    assert (status.phase, status.reason and status.reason.code) == (
        JobPhase.WAITING, "job.demands-sandbox",
    )  # fmt: skip
