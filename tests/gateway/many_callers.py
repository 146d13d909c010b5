"""One of several processes that let in all they may of one limit: for `test_columns`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from madang.gateway.columns import Columns
from madang.traffic.joint import JointBudgets
from madang.traffic.refusal import Refusal
from madang.traffic.table import Allowance, Key, RouteTable

LIMIT = 400
TOKENS = 10


def budgets(columns: Columns, limits: Allowance) -> tuple[JointBudgets, Key]:
    """One process's budgets, with a limit of one project."""
    found, key = JointBudgets(columns), Key("app", "seoul/minwon", "member", may_infer=True)
    found.take(RouteTable(1, (), {}, limits={"seoul/minwon": limits}))
    return found, key


def call(folder: str, limits: str, kind: str) -> None:
    """Let in as much as may be, and say how much that was; one of `dies` kills itself then."""
    columns = Columns(Path(folder), 4)
    columns.claim(0)
    found, key = budgets(columns, Allowance(**json.loads(limits)))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    count = refused = 0
    most = LIMIT // 8 if kind == "dies" else LIMIT
    while count < most and refused < 200:
        taken = found.reserve(found.line(key), TOKENS, 0, 1.0)
        if isinstance(taken, Refusal):
            refused += 1
        else:
            count += 1
    sys.stdout.write(json.dumps(count) + "\n")
    sys.stdout.flush()
    if kind == "dies":
        os.kill(os.getpid(), 9)
    sys.stdin.readline()


if __name__ == "__main__":
    call(*sys.argv[1:])
