"""A newcomer's first minute: a fresh clone, an empty cache, the README's first command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.story, pytest.mark.online, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("clone")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MADANG_", "VIRTUAL_ENV"))}
    env = {
        **kept, "MADANG_HOME": str(folder / "home"), "PIP_CACHE_DIR": str(folder / "cache"),
        "LANG": "C.UTF-8",
    }  # fmt: skip
    subprocess.run(["git", "clone", "-q", ROOT, folder / "madang"], check=True)
    yield folder / "madang", env
    subprocess.run(["make", "down"], cwd=folder / "madang", env=env, check=False)


def make(clone: tuple[Path, dict[str, str]], target: str) -> subprocess.CompletedProcess[str]:
    folder, env = clone
    return subprocess.run(
        ["make", target], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_make_up_ends_with_the_models_answer_and_no_complaint(
    clone: tuple[Path, dict[str, str]],
) -> None:
    done = make(clone, "up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Seoul" in done.stdout
    assert "first token" in done.stdout
    printed = (done.stdout + done.stderr).lower().splitlines()
    assert [line for line in printed if "error" in line or "warn" in line] == []


def test_make_up_again_prints_the_same(clone: tuple[Path, dict[str, str]]) -> None:
    done = make(clone, "up")
    assert done.returncode == 0
    assert "Seoul" in done.stdout
    assert "environment" not in done.stdout, "nothing is installed again"


def test_what_was_printed_to_paste_works(clone: tuple[Path, dict[str, str]]) -> None:
    printed = make(clone, "up").stdout
    command = printed[printed.index("  curl") :]
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert '"choices"' in done.stdout, done.stderr


def test_make_down_stops_and_make_clean_removes(clone: tuple[Path, dict[str, str]]) -> None:
    assert make(clone, "down").returncode == 0
    assert make(clone, "clean").returncode == 0
    folder, _ = clone
    assert not (folder / ".venv").exists()
    assert subprocess.run(
        ["git", "status", "--porcelain", "--ignored"], cwd=folder, capture_output=True, text=True,
        check=True,
    ).stdout == ""  # fmt: skip


def test_an_installed_package_fetches_its_first_model_by_itself(
    clone: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, env = clone
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "-qq", "--no-deps"]
    by_hash = [*pip, "--require-hashes", "-r"]
    for command in (
        [sys.executable, "-m", "venv", tmp_path / "venv"],
        [*by_hash, folder / "requirements" / "core.txt"],
        [*by_hash, folder / "requirements" / "build.txt"],
        [*pip, "--no-index", "--no-build-isolation", folder],
    ):
        subprocess.run(command, env=env, check=True)
    alone = {**env, "MADANG_HOME": str(tmp_path / "home")}
    madang = Path(python).with_name("madang")
    done = subprocess.run(
        [madang, "up", "--port", "0"], cwd=tmp_path, env=alone, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    subprocess.run([madang, "down"], env=alone, capture_output=True, check=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "xllamacpp" in done.stderr, "it says what it fetches"
    assert "Seoul" in done.stdout
