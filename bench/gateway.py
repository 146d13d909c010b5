"""The gateway's own cost: CPU per request and per piece of a stream, what it adds, what it holds.

An engine and a load of compiled C (bench/wire), on one core; one gateway on another. Beside ours,
in the same run: sglang-router and LiteLLM's proxy, from an environment of their own
(requirements/peers.sh), where that is.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from madang.settings import Home
from madang.traffic.table import Allowance, Endpoint, Key, Price, RouteTable, Target
from rows import Row, write

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv" / "peers"
KEY = "sk-bench"
PATH = "/v1/chat/completions"
AT_ONCE = (1, 16, 64)
STREAMS = 64
EVENTS, GAP_MS = 64, 2.0
SECONDS = 4.0
ROUNDS = 3
WARM = 3000
MANY = 1_000_000
"""Requests after which memory is looked at once more; LiteLLM's after a hundredth of these."""
SLOW = "LiteLLM"
READY_S = 120.0
SDK = {
    "User-Agent": "OpenAI/Python 2.0.0", "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate", "X-Stainless-Lang": "python",
    "X-Stainless-Package-Version": "2.0.0", "X-Stainless-OS": "Linux", "X-Stainless-Arch": "x64",
    "X-Stainless-Runtime": "CPython", "X-Stainless-Runtime-Version": "3.12.1",
    "X-Stainless-Async": "false", "X-Stainless-Retry-Count": "0", "X-Stainless-Read-Timeout": "600",
}  # fmt: skip


@dataclass
class Door:
    """One gateway that is running, or none: the engine itself."""

    name: str
    port: int
    pid: int = 0
    seen: dict[str, list[float]] = field(default_factory=dict)

    def note(self, what: str, value: float) -> None:
        """Keep what one round has shown."""
        self.seen.setdefault(what, []).append(value)

    def typical(self, what: str) -> float:
        """Return the median of the rounds; 0: it was not looked at."""
        return round(median(self.seen[what]), 3) if what in self.seen else 0.0

    def cpu_s(self) -> float:
        """Seconds of CPU that all its threads have used, from the scheduler's nanoseconds."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(FileNotFoundError):
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def rss_mb(self) -> float:
        """Megabytes in memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
        return 0.0


def compiled(folder: Path) -> tuple[Path, Path]:
    """Compile the engine and the load; says so where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("bench-gateway needs a C compiler: install one that is called 'cc'.")
    made = []
    for name in ("mock", "load"):
        source, out = HERE / "wire" / f"{name}.c", folder / name
        subprocess.run([compiler, "-O2", "-D_GNU_SOURCE", "-o", out, source], check=True)
        made.append(out)
    return made[0], made[1]


def pinned(*cores: int) -> dict[str, Any]:
    """Keep a child on these cores; on a machine with one, wherever it likes."""
    there = os.sched_getaffinity(0)
    wanted = there & set(cores) or there
    return {"preexec_fn": lambda: os.sched_setaffinity(0, wanted)}


@contextmanager
def engine(program: Path) -> Iterator[int]:
    """Run the mock engine; its port."""
    argv = [program, "0", str(EVENTS), str(GAP_MS)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **pinned(1)) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def table(port: int) -> RouteTable:
    """Limits of key, project and organization, and a price.

    None by day or month: what those leave is lent by control, which there is none of here.
    """
    target = Target("mock", 1, f"http://127.0.0.1:{port}", "t", slots=64)
    endpoint = Endpoint("lab/bench", "mock", "mock", (target,), 8192, price=Price(300, 30, 900))
    all_of_it = Allowance(
        requests_per_minute=10**8, tokens_per_minute=10**12, concurrent=10**4
    )  # fmt: skip
    key = Key("app", "lab/bench", "member", uid="k", may_infer=True, limits=all_of_it)
    limits = {"lab/bench": all_of_it, "lab": all_of_it}
    return RouteTable(1, (endpoint,), {sha256(KEY.encode()).hexdigest(): key}, limits=limits)


@contextmanager
def ours(folder: Path, port: int) -> Iterator[Door]:
    """Run our gateway on a table that lies on its disk."""
    home = Home(folder / "home")
    home.gateway.mkdir(parents=True)
    home.table.write_bytes(msgspec.json.encode(table(port)))
    reader, writer = os.pipe()
    argv = [sys.executable, "-m", "madang.gateway", str(home.path), "--port", "0"]
    env = {**os.environ, "MADANG_READY_FD": str(writer)}
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(argv, env=env, stderr=log, pass_fds=[writer], **pinned(0))
    os.close(writer)
    with process, os.fdopen(reader) as ready:
        try:
            told = json.loads(ready.readline())
            yield Door("madang", int(told["url"].rpartition(":")[2]), told["pid"])
        finally:
            process.kill()


@contextmanager
def sglang(folder: Path, port: int) -> Iterator[Door | None]:
    """Run sglang-router as it comes, with its policy for prompts that are cached."""
    python = Path(os.environ.get("MADANG_PEERS", PEERS)) / "bin" / "python"
    if not python.exists():
        print("no sglang-router here: sh requirements/peers.sh", file=sys.stderr)
        yield None
        return
    own, more = free_port(), free_port()
    argv = [
        python, "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(own),
        "--worker-urls", f"http://127.0.0.1:{port}", "--policy", "cache_aware",
        "--prometheus-port", str(more), "--log-level", "error",
    ]  # fmt: skip
    with (folder / "sglang.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, **pinned(0))
    with process:
        try:
            yield Door("sglang-router", own, process.pid) if answers(own) else None
        finally:
            process.kill()


@contextmanager
def litellm(folder: Path, port: int) -> Iterator[Door | None]:
    """Run LiteLLM's proxy with one worker, one model and no database."""
    python = Path(os.environ.get("MADANG_PEERS", PEERS)) / "bin" / "python"
    if not python.exists():
        yield None
        return
    own, config = free_port(), folder / "litellm.yaml"
    config.write_text(
        f"model_list: [{{model_name: mock, litellm_params: {{model: openai/mock, api_key: t,"
        f" api_base: 'http://127.0.0.1:{port}/v1'}}}}]\n"
        f"general_settings: {{master_key: {KEY}}}\n"
    )
    code = "from litellm import run_server; run_server()"
    argv = [python, "-c", code, "--config", config, "--host", "127.0.0.1", "--port", str(own)]
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with (folder / "litellm.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=env, **pinned(0))
    with process:
        try:
            yield Door("LiteLLM", own, process.pid) if answers(own) else None
        finally:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def answers(port: int) -> bool:
    """Wait until it answers a request well."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as asking:
            asking.settimeout(5)
            asking.sendall(request(port))
            if asking.recv(65536).startswith(b"HTTP/1.1 200"):
                return True
        time.sleep(0.5)
    print(f"nothing good on port {port} within {READY_S:g} s", file=sys.stderr)
    return False


def request(port: int, stream: bool = False, extra: dict[str, str] | None = None) -> bytes:
    """Write a chat of 3.7 KB."""
    turns = [{"role": "system", "content": "You help people with their papers. " * 40}]
    turns.append({"role": "user", "content": "What does the yard hold today, and why? " * 52})
    body = {"model": "mock", "messages": turns, "max_tokens": 64, "temperature": 0.2}
    if stream:
        body["stream"] = True
    data = json.dumps(body, separators=(",", ":")).encode()
    headers = {
        "Host": f"127.0.0.1:{port}", "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/json", "Content-Length": str(len(data)), **(extra or {}),
    }  # fmt: skip
    lines = [f"POST {PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + data


@dataclass
class Bench:
    """The load, and where it keeps its bytes."""

    program: Path
    folder: Path

    def load(self, port: int, said: bytes, many: int, seconds: float, most: int = 0) -> Any:
        """Run the load; what it tells."""
        file = self.folder / "request"
        file.write_bytes(said)
        argv = [self.program, str(port), str(many), str(seconds), str(most), file]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, **pinned(1))
        told = json.loads(done.stdout)
        if told["errors"]:
            print(f"port {port}: {told['errors']} errors: {done.stderr[:500]}", file=sys.stderr)
        return told

    def measure(self, door: Door, seconds: float) -> None:
        """One round: requests one after the other, some at once, many, and streams."""
        self.load(door.port, request(door.port), 4, seconds, WARM)
        for many in AT_ONCE:
            self._requests(door, f"c={many}", request(door.port), many, seconds)
        self._requests(door, "c=16 sdk", request(door.port, extra=SDK), 16, seconds)
        before = door.cpu_s() if door.pid else 0.0
        told = self.load(door.port, request(door.port, stream=True), STREAMS, seconds)
        if door.pid:
            door.note("chunk us", (door.cpu_s() - before) * 1e6 / max(1, told["events"]))
        door.note("ttft ms", told["first_p50_ms"])
        door.note("errors", told["errors"])

    def _requests(self, door: Door, name: str, said: bytes, many: int, seconds: float) -> None:
        before = door.cpu_s() if door.pid else 0.0
        told = self.load(door.port, said, many, seconds)
        if door.pid:
            spent = (door.cpu_s() - before) * 1e6
            door.note(f"{name} us", spent / max(1, told["answers"]))
        door.note(f"{name} p50", told["p50_ms"])
        door.note(f"{name} p99", told["p99_ms"])
        door.note("errors", told["errors"])


def row(metric: str, what: str, unit: str, doors: list[Door], *bars: float | None) -> Row:
    """Compare ours to the peer, if it is there."""
    mine, peers = doors[0].typical(what), doors[1:]
    floor, target = (*bars, None, None)[:2]
    if not peers or not peers[0].typical(what):
        return Row(f"gateway: {metric}", mine, unit, floor, target)
    theirs = peers[0].typical(what)
    ratio = round(mine / theirs, 3)
    return Row(f"gateway: {metric}", mine, unit, floor, target, peers[0].name, theirs, ratio)


def rows(doors: list[Door], direct: Door) -> list[Row]:
    """Return what was seen, ours beside the peer's."""
    us = "us CPU"
    found = [
        row("a request, one at a time", "c=1 us", us, doors),
        row("a request, 16 at once", "c=16 us", us, doors, 60, 30),
        row("a request with an SDK's 12 headers, 16 at once", "c=16 sdk us", us, doors),
        row("a request, 64 at once", "c=64 us", us, doors),
        row("a piece of a stream, 64 streams", "chunk us", us, doors, 8, 5),
    ]
    if slow := [door for door in doors if door.name == SLOW]:
        times = round(slow[0].typical("c=16 us") / doors[0].typical("c=16 us"), 1)
        name = "gateway: a request, 16 at once, LiteLLM's CPU to ours"
        found.append(Row(name, times, "", 300.0, None, lower_is_better=False))
    compared = found[1]
    if compared.ratio is not None and compared.peer != SLOW:
        name = "gateway: a request, 16 at once, to sglang-router"
        found.append(Row(name, compared.ratio, "", 1.0, 0.75))
    for door in doors:
        for what in [f"c={many} {share}" for many in AT_ONCE for share in ("p50", "p99")]:
            added = door.typical(what) - direct.typical(what)
            found.append(Row(f"{door.name}: added {what}", round(added, 3), "ms"))
        added = round(door.typical("ttft ms") - direct.typical("ttft ms"), 3)
        bars = (5.0, 1.0) if door is doors[0] else ()
        found.append(Row(f"{door.name}: added to the first event, 64 streams", added, "ms", *bars))
        found.append(Row(f"{door.name}: errors", sum(door.seen["errors"]), "", 0.0))
    return found


def memory(bench: Bench, doors: list[Door], many: int) -> list[Row]:
    """What each holds after so many requests; of one prompt, so that no table of prompts grows."""
    found = []
    for door in doors:
        bench.load(door.port, request(door.port), 16, 60, many // 10)
        early = door.rss_mb()
        bench.load(door.port, request(door.port), 16, 600, many - many // 10)
        bars = (100.0, 60.0) if door is doors[0] else ()
        late = door.rss_mb()
        found.append(
            Row(f"{door.name}: memory after {many:,} requests", round(late, 1), "MB", *bars)
        )
        grown = round(late - early, 1)
        found.append(Row(f"{door.name}: of that since the first tenth", grown, "MB"))
    return found


def run(seconds: float = SECONDS, rounds: int = ROUNDS, many: int = MANY) -> list[Row]:
    """Measure all, interleaved, so that a slow minute of the machine is everybody's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mock, load = compiled(folder)
        bench = Bench(load, folder)
        with (
            engine(mock) as port, ours(folder, port) as own, sglang(folder, port) as peer,
            litellm(folder, port) as slow,
        ):  # fmt: skip
            doors = [own, *(each for each in (peer, slow) if each)]
            direct = Door("direct", port)
            for _ in range(rounds):
                for door in (direct, *doors):
                    bench.measure(door, seconds)
            found = rows(doors, direct)
            if many:
                found += memory(bench, doors, many)
    return found


def main() -> None:
    """Run all, or `--quick`: one short round and no look at memory."""
    quick = "--quick" in sys.argv
    write("gateway", run(2.0, 1, 0) if quick else run())


if __name__ == "__main__":
    main()
