"""A language model is trained by two ranks that are killed, damaged and stopped on the way."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from madang.resources.job import OVER

from .conftest import Yard, kill
from .gang import Gang

pytestmark = [pytest.mark.story, pytest.mark.online, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
EXAMPLE = ROOT / "examples" / "train-a-tiny-llm"
needs_bubblewrap = pytest.mark.skipif(
    not shutil.which("bwrap"), reason="jobs share through sandboxes: install bubblewrap"
)
PYTHON = EXAMPLE / ".venv" / "bin" / "python"
STEPS, SAVE_EVERY, WINDOW = 340, 40, 32
"""Enough to learn the capitals."""
FEW, OFTEN = 48, 8
"""Enough to be killed, damaged and stopped in."""
TRAINED_S = 900.0
"""A bound, not a hope: alone on two processors it takes a minute."""
ASKED = (
    ("대한민국의 수도는?", "대한민국의 수도는 서울입니다."),
    ("What is the capital of France?", "The capital of France is Paris."),
)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    """Run one of the example's programs in its environment."""
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": f"{SOURCE}:{EXAMPLE}"}
    return subprocess.run(
        [PYTHON, *map(str, command)], env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is learnt: capitals alone, which is quick. The first time, PyTorch is fetched."""
    subprocess.run(["make", "train-env"], cwd=ROOT, check=True)
    folder = tmp_path_factory.mktemp("data")
    done = run(EXAMPLE / "prepare.py", folder, "--only", "capitals")
    assert done.returncode == 0, done.stderr
    return folder


@contextmanager
def gang(root: Path, data: Path, steps: int, save_every: int) -> Iterator[Gang]:
    options = [f"--steps={steps}", f"--save-every={save_every}", f"--window={WINDOW}"]
    argv = [str(PYTHON), str(EXAMPLE / "train.py"), f"--data={data}", *options]
    with closing(Gang(root, SOURCE, argv)) as made:
        yield made


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def undisturbed(root: Path, data: Path, steps: int, save_every: int) -> Path:
    """Return the last checkpoint of a run in which nothing happens."""
    with gang(root, data, steps, save_every) as calm:
        calm.start()
        assert calm.ended() == [0, 0], calm.log()
        told = [line["step"] for line in calm.told() if "metrics" in line]
        assert (told[0], told[-1]) == (1, steps)
        assert calm.newest().name == f"step-{steps:06d}"
        return calm.newest()


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what has learnt the capitals."""
    return undisturbed(tmp_path_factory.mktemp("calm"), data, STEPS, SAVE_EVERY)


def test_killed_damaged_and_stopped_it_ends_with_the_same_weights(
    data: Path, tmp_path: Path
) -> None:
    calm = undisturbed(tmp_path / "calm", data, FEW, OFTEN)
    with gang(tmp_path / "not", data, FEW, OFTEN) as disturbed:
        disturbed.start()
        disturbed.until(2 * OFTEN + 1)
        disturbed.kill(rank=1)
        codes = disturbed.ended()
        assert codes[1] == -signal.SIGKILL
        assert codes[0] not in {0, 75}, "a rank alone can't go on"

        newest = disturbed.newest()
        damaged = newest / "model.safetensors"
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        disturbed.start(resume_from=newest)
        disturbed.until(2 * OFTEN + 3)
        assert f"{newest.name} is passed over: model.safetensors" in disturbed.log()
        first = next(line["step"] for line in disturbed.told() if "step" in line)
        assert first == int(newest.name[5:]) - OFTEN + 1
        for rank in range(2):
            disturbed.kill(rank, signal.SIGTERM)
        assert disturbed.ended() == [75, 75], disturbed.log()
        ends = [max(line.get("step", 0) for line in disturbed.told(rank)) for rank in range(2)]
        assert ends[0] == ends[1], "all stop after the same step"
        assert disturbed.newest().name == f"step-{ends[0]:06d}", "and nothing of it is lost"

        disturbed.start(resume_from=disturbed.newest())
        assert disturbed.ended() == [0, 0], disturbed.log()
        assert next(line["step"] for line in disturbed.told() if "step" in line) == ends[0] + 1
        assert weights(disturbed.newest()) == weights(calm)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the example, made shorter: capitals alone, and fewer steps."""
    copy = tmp_path / "train-a-tiny-llm"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "build"))
    (copy / ".venv").symlink_to(EXAMPLE / ".venv")
    written = (copy / "madang.yaml").read_text(encoding="utf-8")
    shorter = f"train.py --steps {STEPS} --save-every {SAVE_EVERY} --window {WINDOW} "
    for before, after in (
        ("prepare.py /data/text", "prepare.py /data/text --only capitals"), ("train.py ", shorter),
    ):  # fmt: skip
        assert before in written
        written = written.replace(before, after)
    (copy / "madang.yaml").write_text(written, encoding="utf-8")
    return copy


@needs_bubblewrap
def test_one_command_trains_through_kills_checks_and_serves(
    running: Yard, folder: Path, trained: Path
) -> None:
    done = running.run("apply", "-f", f"{folder}/")
    assert done.returncode == 0, done.stderr
    saved = lambda: running.json("explain", "job/tiny-llm")["course"]["saved_step"]  # noqa: E731
    running.until("it has saved", lambda: saved() >= SAVE_EVERY, TRAINED_S)
    ranks = running_ranks(running)
    assert len(ranks) == 2
    kill(ranks[1])
    kill(running.pid("control"))
    running.until("it is trained", lambda: running.phase("job", "tiny-llm") in OVER, TRAINED_S)
    told = running.run("watch", "job/tiny-llm")
    assert (told.returncode, f"{STEPS}/{STEPS}" in told.stdout) == (0, True), told.stdout
    assert "Rank 1 was killed" in told.stdout

    first, *_, last = (a for a in running.json("get", "attempt") if a["spec"]["job"] == "tiny-llm")
    assert (first["status"]["outcome"], last["status"]["outcome"]) == ("fault", "succeeded")
    assert last["spec"]["first_step"] >= SAVE_EVERY, "it went on from a checkpoint"
    kept = running.home / "volumes" / running.get("volume", "tiny-llm")["uid"] / "checkpoints"
    assert weights(kept / trained.name) == weights(trained), "bit for bit"

    running.until_phase("job", "tiny-llm-file", "succeeded")
    assert "answers are torch's own" in running.run("logs", "job/tiny-llm-file").stdout
    running.until_phase("service", "tiny-llm", "ready")
    for question, answer in ASKED:
        assert asked(running, question) == answer
    assert running.run("delete", "service/tiny-llm").returncode == 0


def running_ranks(yard: Yard) -> list[int]:
    """Return the processes of the training of this Madang, in order of start."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[1:2] == [b"train.py"] and is_below(int(process.name), yard.supervisor):
                found.append(int(process.name))
    return sorted(found)


def is_below(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor


def asked(yard: Yard, question: str) -> str:
    """Ask the trained model through the gateway."""
    messages = [{"role": "user", "content": question}]
    body = {"model": "tiny-llm", "messages": messages, "temperature": 0, "max_tokens": 32}
    key = (yard.home / "admin.key").read_text().strip()
    request = urllib.request.Request(
        f"{yard.told['gateway']}/chat/completions", json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


LEFT_OUT = "gguf.GGUFWriter.{} = lambda *_: None"
HALVES = """
put = gguf.GGUFWriter.add_tensor
def add_tensor(self, name, weights):
    if name.endswith(("attn_q.weight", "attn_k.weight")):
        rows, width = weights.shape
        weights = weights.reshape(-1, 16, 2, width).swapaxes(1, 2).reshape(rows, width).copy()
    put(self, name, weights)
gguf.GGUFWriter.add_tensor = add_tensor
"""


@pytest.mark.parametrize(("mistake", "noticed"), [
    (LEFT_OUT.format("add_tokenizer_pre"), "becomes other tokens"),
    (LEFT_OUT.format("add_token_types"), "becomes other tokens"),
    (HALVES, "it says"),
])  # fmt: skip
def test_a_mistake_that_loads_and_talks_nonsense_is_not_exported(
    data: Path, trained: Path, tmp_path: Path, mistake: str, noticed: str
) -> None:
    program = f"import gguf, export, sys\n{mistake}\nexport.main()"
    done = run("-c", program, trained.parent, data, tmp_path / "tiny.gguf")
    assert done.returncode == 1, done.stdout
    assert "the engine does not say what torch says" in done.stderr
    assert noticed in done.stderr
    assert list(tmp_path.iterdir()) == []
