"""`madang` in a process of its own, with the stand-in where control and gateway would be."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import madang.app.plans
from madang.cli import main
from madang.settings import Home


def boot_plans(home: Home, host: str, port: int) -> list[dict[str, Any]]:
    program = str(Path(__file__).parent / "standin.py")
    return [{
        "uid": "control", "epoch": 1, "restart": "always", "grace_s": 5.0,
        "argv": [sys.executable, program, str(home.path), host, str(port)],
        "env": dict(os.environ),
    }]  # fmt: skip


if __name__ == "__main__":
    madang.app.plans.boot_plans = boot_plans
    sys.exit(main())
