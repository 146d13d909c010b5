"""A language model is trained by two ranks that are killed, damaged and stopped on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from madang.engines.llamacpp import LlamaCpp
from madang.ports import Assignment
from madang.supervisor.protocol import READY_FD

from .gang import Gang

pytestmark = [pytest.mark.story, pytest.mark.online, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
EXAMPLE = ROOT / "examples" / "train-a-tiny-llm"
PYTHON = EXAMPLE / ".venv" / "bin" / "python"
STEPS, SAVE_EVERY = 240, 40


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
def gang(root: Path, data: Path) -> Iterator[Gang]:
    options = f"--steps={STEPS} --save-every={SAVE_EVERY} --window=32".split()
    argv = [str(PYTHON), str(EXAMPLE / "train.py"), f"--data={data}", *options]
    with closing(Gang(root, SOURCE, argv)) as made:
        yield made


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoints of a run that nothing has disturbed."""
    with gang(tmp_path_factory.mktemp("calm"), data) as calm:
        calm.start()
        assert calm.ended() == [0, 0], calm.log()
        steps = [line["step"] for line in calm.told() if "metrics" in line]
        assert (steps[0], steps[-1]) == (1, STEPS)
        assert calm.newest().name == f"step-{STEPS:06d}"
        return calm.checkpoints


def test_killed_damaged_and_stopped_it_ends_with_the_same_weights(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    with gang(tmp_path, data) as disturbed:
        disturbed.start()
        disturbed.until(2 * SAVE_EVERY + 5)
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
        disturbed.until(2 * SAVE_EVERY + 10)
        assert f"{newest.name} is passed over: model.safetensors" in disturbed.log()
        first = next(line["step"] for line in disturbed.told() if "step" in line)
        assert first == int(newest.name[5:]) - SAVE_EVERY + 1
        for rank in range(2):
            disturbed.kill(rank, signal.SIGTERM)
        assert disturbed.ended() == [75, 75], disturbed.log()
        ends = [max(line.get("step", 0) for line in disturbed.told(rank)) for rank in range(2)]
        assert ends[0] == ends[1], "all stop after the same step"
        assert disturbed.newest().name == f"step-{ends[0]:06d}", "and nothing of it is lost"

        disturbed.start(resume_from=disturbed.newest())
        assert disturbed.ended() == [0, 0], disturbed.log()
        assert next(line["step"] for line in disturbed.told() if "step" in line) == ends[0] + 1
        assert weights(disturbed.newest()) == weights(trained / f"step-{STEPS:06d}")


def test_the_engine_says_what_was_learnt(data: Path, trained: Path, tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    done = run(EXAMPLE / "export.py", trained, data, model)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.gguf"]
    assignment = Assignment(
        uid="tiny-1", epoch=1, model_name="tiny", model_path=model, context_tokens=256, slots=1,
        memory_bytes=1 << 28, cores=1.0, accelerators=("cpu0",), devices=("",), token="a-token",
    )  # fmt: skip
    with served(assignment) as address:
        assert asked(address, "대한민국의 수도는?") == "대한민국의 수도는 서울입니다."
        assert asked(address, "What is the capital of France?") == (
            "The capital of France is Paris."
        )


@contextmanager
def served(assignment: Assignment) -> Iterator[str]:
    plan = LlamaCpp().launch(assignment)
    reader, writer = os.pipe()
    engine = subprocess.Popen(
        plan.argv, env={**plan.env, READY_FD: str(writer)}, pass_fds=(writer,)
    )
    try:
        os.close(writer)
        with os.fdopen(reader) as ready:
            yield json.loads(ready.readline())["url"]
    finally:
        engine.kill()
        engine.wait()


def asked(address: str, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 32}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(),
        {"Authorization": "Bearer a-token", "Content-Type": "application/json"},
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
    done = run("-c", program, trained, data, tmp_path / "tiny.gguf")
    assert done.returncode == 1, done.stdout
    assert "the engine does not say what torch says" in done.stderr
    assert noticed in done.stderr
    assert list(tmp_path.iterdir()) == []
