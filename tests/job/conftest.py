"""A training program as Madang would start it: its environment, its files, its own clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from madang import job

UID = "job-7"


@dataclass
class Place:
    """The folders of one job, and the ranks that are started in them."""

    root: Path
    now: float = 0.0
    env: dict[str, str] = field(default_factory=dict)

    def start(self, total: int = 10, *, attempt: int = 1, rank: int = 0, **env: Any) -> job.Run:
        """Start a rank; only the signal is left out."""
        told = {
            "RANK": str(rank), "WORLD_SIZE": "2", "MADANG_JOB_UID": UID,
            "MADANG_ATTEMPT": str(attempt), "MADANG_PROGRESS": str(self.progress(attempt, rank)),
            "MADANG_CHECKPOINTS": str(self.checkpoints),
            "MADANG_STOP_FILE": str(self.root / "stop"), **self.env, **env,
        }  # fmt: skip
        return job.Run(total, 0, told, lambda: self.now)

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def progress(self, attempt: int = 1, rank: int = 0) -> Path:
        return self.root / f"progress-{attempt}-{rank}.jsonl"

    def lines(self, attempt: int = 1, rank: int = 0) -> list[dict[str, Any]]:
        """Read what was told, as a reader does: whole lines only."""
        text = self.progress(attempt, rank).read_text(encoding="utf-8")
        assert text.endswith("\n")
        return [json.loads(line) for line in text.splitlines() if line]

    def there(self) -> list[str]:
        """Return the names of all that lies beside the checkpoints, hidden or not."""
        return sorted(path.name for path in self.checkpoints.iterdir())

    def save(self, step: int, *, attempt: int = 1, **files: bytes) -> Path:
        """Make a checkpoint the way a program does."""
        with self.start(attempt=attempt).checkpoint(step) as folder:
            for name, content in (files or {"model": bytes([step]) * 4096}).items():
                (folder / name).write_bytes(content)
        return self.checkpoints / f"step-{step:06d}"

    def resumed(self, step: int, attempt: int = 9) -> Path | None:
        """Return what a rank takes when control names that step's checkpoint."""
        named = self.checkpoints / f"step-{step:06d}"
        return self.start(attempt=attempt, MADANG_RESUME_FROM=str(named)).resume_from


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def manifest(folder: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((folder / job.MANIFEST).read_text())
    return found
