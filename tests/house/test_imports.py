"""Imports go one way: the contracts hold, and each of them can be broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the house whose `src` lies in that folder against this house's contracts."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [
        sys.executable,
        "-c",
        program,
        "--no-cache",
        "--config",
        str(ROOT / "pyproject.toml"),
    ]
    environ = {**os.environ, "PYTHONPATH": str(folder / "src")}
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def test_every_contract_is_kept() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


FORBIDDEN = [
    ("planning/place/place.py", "import time", "The core is pure"),
    ("traffic/table.py", "import madang.planning.snapshot", "One direction"),
    ("control/loop.py", "import madang.stores.sqlite", "Only the composition root"),
    ("launchers/local.py", "import madang.control.world", "Adapters and the gateway never"),
    ("gateway/app.py", "import madang.resources.model", "The fast loop"),
    ("supervisor/children.py", "import madang.errors", "The supervisor knows"),
    ("client.py", "import pydantic", "The client is light"),
    ("resources/resource.py", "import madang.resources.kinds", "No cycles"),
    ("control/loop.py", "import madang.testing", "Test tools stay out"),
]
"""One for each contract."""
FORBIDDEN_TOO = [
    ("resources/model.py", "import pathlib", "The core is pure"),
    ("planning/place/place.py", "import madang.ports", "One direction"),
    ("api/app.py", "import madang.gateway.app", "One direction"),
    ("stores/sqlite.py", "import madang.engines.fake", "One direction"),
    ("gateway/app.py", "import pydantic", "The fast loop"),
    ("supervisor/children.py", "import msgspec", "The supervisor knows"),
    ("job.py", "import madang.forms", "One direction"),
    ("utils/__init__.py", "", "One direction"),
]


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [*FORBIDDEN, *(pytest.param(*each, marks=[pytest.mark.thorough]) for each in FORBIDDEN_TOO)],
)
def test_a_forbidden_import_is_caught(tmp_path: Path, file: str, line: str, broken: str) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "src" / "madang" / file
    path.parent.mkdir(exist_ok=True)
    before = path.read_text() if path.exists() else ""
    path.write_text(f"{before}\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode != 0
    found = [each for each in done.stdout.splitlines() if "BROKEN" in each or "must" in each]
    assert any(broken in each for each in found) or not line, done.stdout
