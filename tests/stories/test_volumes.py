"""What jobs share, and what they don't: volumes, code and secrets, as members have them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests import living

from .conftest import Yard

pytestmark = [
    pytest.mark.story,
    pytest.mark.skipif(
        not shutil.which("bwrap"), reason="jobs share through sandboxes: install bubblewrap"
    ),
]
LAB, ROOM = "acme/lab", "acme/room"


def key(yard: Yard, project: str, name: str = "typist") -> Yard:
    """Return the same Madang as a member of a project sees it."""
    made = yard.json("key", "create", name, "--project", project)
    env = {"MADANG_KEY": made["key"], "MADANG_PROJECT": project}
    return Yard(yard.home, yard.told, env={**yard.env, **env})


@pytest.fixture(scope="module")
def lab(running: Yard) -> Yard:
    for document in (
        {"kind": "organization", "name": "acme"}, {"kind": "project", "name": LAB},
        {"kind": "project", "name": ROOM},
    ):  # fmt: skip
        running.apply(**document)
    return key(running, LAB)


def over(yard: Yard, phase: str = "succeeded", **job: Any) -> str:
    """Run a job to its end, and return what it printed."""
    yard.apply(kind="job", needs={"cores": 0.1}, **job)
    name = job["name"]
    yard.until("it is over", lambda: yard.phase("job", name) in {"succeeded", "failed"})
    said = yard.run("logs", f"job/{name}")
    assert yard.phase("job", name) == phase, said.stdout + yard.run("explain", f"job/{name}").stdout
    return said.stdout


def test_jobs_of_a_project_share_a_volume_and_no_other_project_sees_it(
    running: Yard, lab: Yard
) -> None:
    lab.apply(kind="volume", name="data", size="1GB")
    mounts = {"/data": "volume://data"}
    write = "umask 077; mkdir /data/text; echo hello >/data/text/said; id -u"
    over(lab, name="write", command=["sh", "-c", write], mounts=mounts)
    read = "cat /data/text/said; echo more >>/data/text/said"
    assert "hello" in over(lab, name="read", command=["sh", "-c", read], mounts=mounts)
    room = key(running, ROOM)
    room.apply(kind="job", name="peek", command=["ls", "/data"], mounts=mounts)
    told = room.run("explain", "job/peek").stdout
    assert "volume data" in told
    uid = lab.get("volume", "data")["uid"]
    folder = running.home / "volumes" / uid
    look = f"ls {folder} {running.home} /data; ls /; id -u"
    said = over(room, name="look", command=["sh", "-c", look])
    assert "said" not in said
    assert "hello" not in said
    if os.getuid() == 0:
        owners = {path.lstat().st_uid for path in folder.rglob("*")}
        assert (len(owners), folder.stat().st_mode & 0o777) == (1, 0o700)
        assert owners.isdisjoint({0, (running.home / "jobs").stat().st_uid})
    refused = lab.run("delete", "volume/data")
    assert refused.returncode == 0, "both jobs are over"
    lab.until("its folder is gone", lambda: not folder.exists())


def test_only_operators_bring_folders_of_the_machine(running: Yard, lab: Yard) -> None:
    there = Path(running.home.parent, "there")
    (there / "deep").mkdir(parents=True)
    (there / "deep" / "said").write_text("from the machine")
    (there / "out").symlink_to(running.home)
    document = {"kind": "volume", "name": "there", "path": str(there), "read_only": True}
    refused = lab.run("apply", "-f", "-", stdin=json.dumps(document))
    assert refused.returncode != 0
    running.apply(**document, project=LAB)
    look = "cat /there/deep/said; ls /there/out; touch /there/mine && echo written"
    said = over(lab, name="see", command=["sh", "-c", look + "; true"],
                mounts={"/there": "volume://there"})  # fmt: skip
    assert "from the machine" in said
    assert "state.db" not in said
    assert "written" not in said
    lab.json("delete", "volume/there")
    assert there.exists()


def test_a_program_goes_along_with_its_job_and_cannot_be_changed_there(
    lab: Yard, tmp_path: Path
) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "said.py").write_text("TEXT = 'from the package'")
    (tmp_path / "train.py").write_text(
        "import os, pathlib\n"
        "from package.said import TEXT\n"
        "print(TEXT, os.getcwd())\n"
        "try:\n    pathlib.Path('more').touch()\n"
        "except OSError as error:\n    print(error.strerror)\n"
    )
    (tmp_path / ".env").write_text("not to be sent")
    submit = ("submit", "--code", str(tmp_path), "--cores", "0.1", "--follow", "--name")
    for name in ("first", "second"):
        done = lab.run(*submit, name, "--", "python3", "train.py")
        assert done.returncode == 0, done.stdout + done.stderr
        said = lab.run("logs", f"job/{name}").stdout
        assert "from the package /code" in said
        assert "Read-only file system" in said
    assert lab.get("job", "first")["spec"]["code"] == lab.get("job", "second")["spec"]["code"]
    assert len(list((lab.home / "codes").glob("*/*"))) == 1
    assert not list((lab.home / "codes").rglob(".env"))
    (tmp_path / "madang.yaml").write_text(
        "{kind: job, name: third, command: python3 train.py, needs: {cores: 0.1}}"
    )
    assert lab.run("apply", "-f", str(tmp_path)).returncode == 0
    lab.until_phase("job", "third", "succeeded")


def test_a_model_that_a_job_writes_into_a_volume_is_served_once_it_is_there(
    running: Yard, lab: Yard, tmp_path: Path
) -> None:
    """One apply, as a member: the job writes the file, it is read, and answers."""
    assert lab.env
    lab = key(running, ROOM, "maker")
    (tmp_path / "make.sh").write_text("sleep 2; echo '{\"fake\": 1}' >/data/tiny.json")
    documents = (
        {"kind": "volume", "name": "models", "size": "1GB"},
        {"kind": "job", "name": "make", "command": "sh make.sh", "needs": {"cores": 0.1},
         "mounts": {"/data": "volume://models"}},
        {"kind": "model", "name": "tiny", "source": "volume://models/tiny.json"},
        {"kind": "service", "name": "tiny", "model": "tiny"},
    )  # fmt: skip
    text = "\n---\n".join(map(json.dumps, documents))
    (tmp_path / "madang.yaml").write_text(text)
    done = lab.run("apply", "-f", str(tmp_path), "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert lab.get("model", "tiny")["status"]["versions"][0]["source"].startswith("volume://")
    lab.json("delete", "service/tiny")


def test_a_secret_reaches_the_job_that_names_it_and_nothing_else(running: Yard, lab: Yard) -> None:
    text = f"secret-{os.urandom(12).hex()}"
    assert lab.run("secret", "set", "token", stdin=text + "\n").returncode == 0
    program = 'printf %s "$TOKEN" | sha256sum; env | grep -c ^TOKEN='
    said = over(lab, name="told", command=["sh", "-c", program], secrets={"TOKEN": "token"})
    assert hashlib.sha256(text.encode()).hexdigest() in said
    said = over(lab, name="untold", command=["sh", "-c", "env | grep -c ^TOKEN=; true"])
    assert "0" in said
    shown = [lab.run(*words).stdout for words in (
        ("events",), ("explain", "job/told", "--json"), ("logs", "job/told"),
        *(("get", kind, "-o", form) for kind in ("secret", "job", "attempt")
          for form in ("json", "yaml", "table")),
    )]  # fmt: skip
    assert all(shown)
    assert text not in "".join(shown)
    assert living.holding(running.home, text.encode()) == set()


SAVES = """
from madang import job
run = job.start(total=4)
state = int((run.resume_from / "state").read_text()) if run.resume_from else 0
print("from", state)
for step in run.steps():
    run.step(step)
    with run.checkpoint(step) as folder:
        (folder / "state").write_text(str(step))
    if step == LAST:
        raise SystemExit(0)
"""


def test_checkpoints_lie_in_a_volume_and_another_job_goes_on_from_them(
    running: Yard, lab: Yard, tmp_path: Path
) -> None:
    lab.apply(kind="volume", name="ckpt", size="1GB")
    mounts, resume = {"/ckpt": "volume://ckpt"}, {"from": "/ckpt/run"}
    for name, last, first in (("teach", 2, 0), ("go-on", 4, 2)):
        code = SAVES.replace("LAST", str(last))
        said = over(lab, name=name, command=["python3", "-c", code], mounts=mounts, resume=resume)
        assert f"from {first}" in said
    folder = running.home / "volumes" / lab.get("volume", "ckpt")["uid"] / "run"
    left = {path.name for path in folder.iterdir()}
    assert left >= {"step-000002", "step-000004"}, "the newest of each; older ones may be unread"
    writer = lab.get("job", "teach")["uid"]
    assert lab.get("attempt", "go-on-1")["spec"]["resume_job"] == writer
    assert "teach" in lab.run("events").stdout
    lab.json("delete", "job/teach")
    lab.until("it is gone", lambda: lab.run("get", "job", "teach").returncode != 0)
    assert {path.name for path in folder.iterdir()} == left
