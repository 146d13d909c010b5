"""An engine without a model, shipped for tests and rehearsals: a file decides how it behaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from madang.engines.llamacpp import TOKEN, read_metrics
from madang.planning.snapshot import EngineFacts
from madang.ports import Assignment
from madang.supervisor.protocol import LaunchPlan

FEATURES = frozenset({
    "chat", "completions", "embeddings", "tools", "json", "reasoning", "cache-salt",
})  # fmt: skip
RUNNER = Path(__file__).with_name("fake_server.py")


class Fake:
    """Speaks like llama.cpp, on whatever accelerator planning gives it."""

    def __init__(
        self, python: str = sys.executable, formats: frozenset[str] = frozenset({"fake"})
    ) -> None:
        self._python = python
        self.facts = EngineFacts(
            name="fake",
            version="1",
            formats=formats,
            accelerator_kinds=frozenset({"cpu", "nvidia", "rebellions", "furiosa"}),
            overhead_bytes=32 << 20,
            weights_factor=1.0,
            slots=4,
            context_tokens=8192,
            features=frozenset(
                {"chat", "completions", "embeddings", "tools", "json", "reasoning", "cache-salt"}
            ),
        )

    def launch(self, assignment: Assignment) -> LaunchPlan:
        """Return how to start it."""
        settings = {
            "script": str(assignment.model_path),
            "name": assignment.uid,
            "slots": assignment.slots,
            "context_tokens": assignment.context_tokens,
        }
        return LaunchPlan(
            uid=assignment.uid,
            epoch=assignment.epoch,
            argv=(self._python, "-I", "-S", str(RUNNER), json.dumps(settings)),
            env={TOKEN: assignment.token},
            accelerators=assignment.accelerators,
        )

    def metrics(self, text: str) -> dict[str, float]:
        """Read the engine's metrics into the common names."""
        return read_metrics(text)
