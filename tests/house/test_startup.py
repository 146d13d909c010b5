"""What each process loads: the commands, the gateway and the supervisor stay small."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PLATFORM = {"aiohttp", "alembic", "fastapi", "numpy", "pydantic", "sqlalchemy", "starlette",
            "uvicorn", "xllamacpp"}  # fmt: skip
SLOW_LOOP = {"alembic", "fastapi", "madang.control", "madang.planning", "madang.resources", "numpy",
             "pydantic", "sqlalchemy", "starlette", "xllamacpp"}  # fmt: skip
OTHERS = {"aiohttp", "asyncio", "madang.errors", "madang.ports", "msgspec", "pathlib", "ssl"}

HELP = """
import contextlib, io
from madang.cli import main
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    main(["--help"])
assert "madang" in shown.getvalue().lower(), shown.getvalue()
"""


def loaded_by(program: str) -> set[str]:
    """Run a program in a process of its own and return the modules it has loaded."""
    report = "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program + report], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(("program", "too_heavy"), [
    (HELP, PLATFORM),
    ("import madang.client", PLATFORM | {"cyclopts", "rich"}),
    ("import madang.gateway.process", SLOW_LOOP),
    ("import madang.supervisor.__main__", PLATFORM | SLOW_LOOP | OTHERS),
], ids=["help", "client", "gateway", "supervisor"])  # fmt: skip
def test_a_process_loads_only_what_it_needs(program: str, too_heavy: set[str]) -> None:
    assert loaded_by(program) & too_heavy == set()
