"""llama.cpp's server out of the xllamacpp wheel: the default engine, on the processor."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

from madang.planning.snapshot import EngineFacts
from madang.ports import Assignment
from madang.supervisor.protocol import LaunchPlan

RUNNER = Path(__file__).with_name("llamacpp_server.py")
TOKEN = "MADANG_ENGINE_TOKEN"  # noqa: S105 - the name of the variable, not a token

CPU_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
"""Without these, threads of libgomp spin: 75 times slower on a busy machine."""

METRICS = {
    "llamacpp:requests_processing": "running",
    "llamacpp:requests_deferred": "waiting",
    "llamacpp:prompt_tokens_total": "prompt_tokens",
    "llamacpp:prompt_tokens_cached_total": "cached_tokens",
    "llamacpp:tokens_predicted_total": "output_tokens",
}
FEATURES = frozenset({
    "chat", "completions", "embeddings", "tools", "json", "logprobs", "reasoning", "cache-off",
})  # fmt: skip
"""Not several answers or prompts: its usage tells the tokens of one only. Not `echo`: ignored."""
POOLING_MEAN = 1
IDLE_CONNECTION_S = 600


class LlamaCpp:
    """GGUF models; chat, completions and embeddings out of one process."""

    def __init__(self, python: str = sys.executable, version: str | None = None) -> None:
        self._python = python
        self.facts = EngineFacts(
            name="llamacpp",
            version=installed() if version is None else version,
            formats=frozenset({"gguf"}),
            accelerator_kinds=frozenset({"cpu"}),
            overhead_bytes=192 << 20,
            weights_factor=1.0,
            slots=4,
            context_tokens=8192,
            features=FEATURES,
        )

    def launch(self, assignment: Assignment) -> LaunchPlan:
        """Return how to start it; nothing it would do by default is left to the default."""
        threads = max(1, int(assignment.cores))
        settings = {
            "model.path": str(assignment.model_path),
            "model_alias": [assignment.uid],
            "hostnames": ["127.0.0.1"],
            "port": 0,
            "n_ctx": assignment.context_tokens,
            "n_parallel": assignment.slots,
            "kv_unified": False,
            "cache_ram_mib": 0,
            "fit_params": False,
            "cpuparams.n_threads": threads,
            "cpuparams_batch.n_threads": threads,
            "n_threads_http": 2 * assignment.slots + 4,
            "embedding": True,
            "pooling_type": POOLING_MEAN,
            "use_jinja": True,
            "endpoint_metrics": True,
            "endpoint_slots": False,
            "endpoint_props": False,
            "ui": False,
            "cors_origins": "",
            "timeout_read": IDLE_CONNECTION_S,
            "timeout_write": IDLE_CONNECTION_S,
            "offline": True,
        }
        return LaunchPlan(
            uid=assignment.uid,
            epoch=assignment.epoch,
            argv=(self._python, "-I", str(RUNNER), json.dumps(settings)),
            env={**CPU_ENVIRONMENT, TOKEN: assignment.token},
            accelerators=assignment.accelerators,
        )

    def metrics(self, text: str) -> dict[str, float]:
        """Read the engine's metrics into the common names."""
        return read_metrics(text)


def installed() -> str:
    """Return the version of the engine in this environment; empty where there is none."""
    try:
        return metadata.version("xllamacpp")
    except metadata.PackageNotFoundError:
        return ""


def read_metrics(text: str) -> dict[str, float]:
    r"""Read llama.cpp's own metrics; what isn't a number is passed over.

    >>> read_metrics("# HELP …\nllamacpp:requests_processing 2\n")
    {'running': 2.0}
    """
    found: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in METRICS and value.replace(".", "", 1).isdigit():
            found[METRICS[name]] = float(value)
    if "prompt_tokens" in found:  # llama.cpp counts only those that were not in the cache
        found["prompt_tokens"] += found.get("cached_tokens", 0.0)
    return found
