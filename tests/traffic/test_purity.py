"""The room decides; it never looks at the world."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import madang.traffic

ALLOWED = {
    "__future__", "collections", "difflib", "functools", "hashlib", "heapq", "itertools", "math",
    "msgspec", "operator", "re", "typing", "unicodedata", "xxhash",
}  # fmt: skip
ROOM = Path(madang.traffic.__file__).parent


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_traffic_imports_only_what_computes():
    for path in ROOM.glob("*.py"):
        for name in imported(path):
            own = name.startswith(("madang.traffic", "madang.forms", "madang.months"))
            assert own or name.partition(".")[0] in ALLOWED, path


def test_traffic_stands_alone():
    code = "import sys, madang.traffic.desk; print(*(m for m in sys.modules if 'madang' in m))"
    argv = [sys.executable, "-c", code]
    env = {"PYTHONPATH": ":".join(sys.path)}
    loaded = subprocess.run(argv, env=env, capture_output=True, check=True, text=True).stdout
    assert all(name.startswith(("madang.traffic", "madang")) for name in loaded.split())
    assert not any(name.startswith("madang.gateway") for name in loaded.split())
