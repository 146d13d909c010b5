"""Breaks one promise at a time, in a copy of this tree, and sees whether its test notices.

`python tests/mutants/run.py [WORD…]` tries every mutant whose name has one of the words. First each
test passes on a copy that is whole; then each must fail on its mutant. Exit code 1: one survived.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
AT_ONCE = 2
TEST_S_MAX = 300
FAILED = 1
"""pytest's exit code when tests ran and one failed; anything else proves nothing."""


@dataclass(frozen=True)
class Mutant:
    """One edit that breaks a promise, and the test that must notice."""

    name: str
    file: str
    old: str
    new: str
    test: str

    def text(self) -> str:
        """Return the file with the edit made; the old text must be there exactly once."""
        text = (ROOT / self.file).read_text()
        assert text.count(self.old) == 1, f"{self.name}: {text.count(self.old)} × {self.old!r}"
        return text.replace(self.old, self.new)


def mutants() -> list[Mutant]:
    """Return those of every list beside this file."""
    lists = sorted(Path(__file__).parent.glob("*.toml"))
    return [Mutant(**body) for path in lists for body in tomllib.loads(path.read_text())["mutant"]]


def copied(to: Path) -> Path:
    """Copy what git knows of this tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def passes(tree: Path, test: str) -> int:
    """Run one test on a copy; return pytest's exit code."""
    env = {**os.environ, "PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
    try:
        done = subprocess.run(
            command, cwd=tree, env=env, capture_output=True, timeout=TEST_S_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        return FAILED
    return done.returncode


def tried(mutant: Mutant | None, test: str) -> tuple[str, bool]:
    """Return what was tried, and whether it went as it must."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = copied(Path(folder))
        if mutant is None:
            return f"whole     {test}", passes(tree, test) == 0
        (tree / mutant.file).write_text(mutant.text())
        return f"mutant    {mutant.name}  ({test})", passes(tree, test) == FAILED


def main(words: list[str]) -> int:
    """Try them, two at once."""
    chosen = [m for m in mutants() if not words or any(word in m.name for word in words)]
    work: list[tuple[Mutant | None, str]] = [
        *((None, test) for test in sorted({m.test for m in chosen})),
        *((m, m.test) for m in chosen),
    ]
    wrong = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for what, is_well in pool.map(lambda each: tried(*each), work):
            print("✓" if is_well else "✗", what, flush=True)
            wrong += not is_well
    print(f"{len(chosen)} mutants, {wrong} not as they must be")
    return 1 if wrong or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
