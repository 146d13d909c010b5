"""What gateways are compared on: an engine and a load of compiled C, and the gateways themselves.

Ours, sglang-router and LiteLLM's proxy, the last two from an environment of their own
(requirements/peers.sh); each on one core, engine and load on another.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec

from madang.settings import Home
from madang.traffic.table import Allowance, Endpoint, Key, Price, RouteTable, Target

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv" / "peers"
KEY = "sk-bench"
PATH = "/v1/chat/completions"
EVENTS, GAP_MS = 64, 2.0
READY_S = 120.0


class Pair(NamedTuple):
    """A certificate and its key, as files."""

    cert: Path
    key: Path


@dataclass
class Door:
    """One gateway that is running, or none: the engine itself."""

    name: str
    port: int
    pid: int = 0
    secure: bool = False
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


def compiled(folder: Path, name: str, *more: str) -> Path:
    """Compile the engine or the load; says so where there is no compiler, or it fails."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("benches of the gateway need a C compiler: install one called 'cc'.")
    source, out = HERE / "wire" / f"{name}.c", folder / "-".join((name, *more)).replace("/", "")
    argv = [compiler, "-O2", "-D_GNU_SOURCE", "-o", str(out), str(source), *more]
    if subprocess.run(argv, check=False).returncode:
        raise SystemExit(f"{source} can't be compiled with {' '.join(more) or 'nothing more'}.")
    return out


def certificate(folder: Path) -> Pair:
    """Make a certificate of the curve P-256 that signs itself."""
    pair = Pair(folder / "cert.pem", folder / "key.pem")
    argv = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", str(pair.key), "-out", str(pair.cert), "-days", "7", "-subj", "/CN=localhost",
    ]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True)
    return pair


def pinned(*cores: int) -> dict[str, Any]:
    """Keep a child on these cores; on a machine with one, wherever it likes."""
    there = os.sched_getaffinity(0)
    wanted = there & set(cores) or there
    return {"preexec_fn": lambda: os.sched_setaffinity(0, wanted)}


@contextmanager
def engine(program: Path) -> Iterator[int]:
    """Run the mock engine; its port."""
    argv = [str(program), "0", str(EVENTS), str(GAP_MS)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **pinned(1)) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def table(port: int, **more: int) -> RouteTable:
    """Limits of key, project and organization, and a price.

    None by day or month unless in `more`: what those leave is lent by control.
    """
    target = Target("mock", 1, f"http://127.0.0.1:{port}", "t", slots=64)
    endpoint = Endpoint("lab/bench", "mock", "mock", (target,), 8192, price=Price(300, 30, 900))
    all_of_it = Allowance(
        requests_per_minute=10**8, tokens_per_minute=10**12, concurrent=10**4, **more
    )  # fmt: skip
    key = Key("app", "lab/bench", "member", uid="k", may_infer=True, limits=all_of_it)
    limits = {"lab/bench": all_of_it, "lab": all_of_it}
    return RouteTable(1, (endpoint,), {sha256(KEY.encode()).hexdigest(): key}, limits=limits)


@contextmanager
def ours(
    folder: Path, given: RouteTable, name: str = "madang", pair: Pair | None = None
) -> Iterator[Door]:
    """Run our gateway on a table that lies on its disk; with a certificate it speaks TLS."""
    home = Home(folder / name)
    home.gateway.mkdir(parents=True, exist_ok=True)
    home.table.write_bytes(msgspec.json.encode(given))
    if pair:
        home.tls.write_text(f"{pair.cert}\n{pair.key}\n")
    reader, writer = os.pipe()
    argv = [sys.executable, "-m", "madang.gateway", str(home.path), "--port", "0"]
    env = {**os.environ, "MADANG_READY_FD": str(writer)}
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(argv, env=env, stderr=log, pass_fds=[writer], **pinned(0))
    os.close(writer)
    with process, os.fdopen(reader) as ready:
        try:
            told = json.loads(ready.readline())
            port = int(told["url"].rpartition(":")[2])
            yield Door(name, port, told["pid"], secure=pair is not None)
        finally:
            process.kill()


@contextmanager
def relay(program: Path, port: int) -> Iterator[Door]:
    """Pass all bytes on and look at none: what the machine's sockets cost alone."""
    argv = [str(program), "0", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **pinned(0)) as process:
        assert process.stdout is not None
        try:
            yield Door("a relay in C", int(process.stdout.readline()), process.pid)
        finally:
            process.kill()


@contextmanager
def sglang(
    folder: Path, port: int, name: str = "sglang-router", pair: Pair | None = None
) -> Iterator[Door | None]:
    """Run sglang-router as it comes, with its policy for prompts that are cached."""
    python = Path(os.environ.get("MADANG_PEERS", PEERS)) / "bin" / "python"
    if not python.exists():
        print("no sglang-router here: sh requirements/peers.sh", file=sys.stderr)
        yield None
        return
    own, more = free_port(), free_port()
    argv = [
        str(python), "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(own),
        "--worker-urls", f"http://127.0.0.1:{port}", "--policy", "cache_aware",
        "--prometheus-port", str(more), "--log-level", "error",
    ]  # fmt: skip
    if pair:
        argv += ["--tls-cert-path", str(pair.cert), "--tls-key-path", str(pair.key)]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, **pinned(0))
    door = Door(name, own, process.pid, secure=pair is not None)
    with process:
        try:
            yield door if answers(door) else None
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
    argv = [
        str(python), "-c", code, "--config", str(config), "--host", "127.0.0.1", "--port", str(own),
    ]  # fmt: skip
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with (folder / "litellm.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=env, **pinned(0))
    door = Door("LiteLLM", own, process.pid)
    with process:
        try:
            yield door if answers(door) else None
        finally:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def answers(door: Door) -> bool:
    """Wait until it answers a request well."""
    anybody, end = ssl.create_default_context(), time.monotonic() + READY_S
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", door.port), 5) as plain:
            plain.settimeout(5)
            with anybody.wrap_socket(plain) if door.secure else plain as asking:
                asking.sendall(request(door.port))
                if asking.recv(65536).startswith(b"HTTP/1.1 200"):
                    return True
        time.sleep(0.5)
    print(f"nothing good on port {door.port} within {READY_S:g} s", file=sys.stderr)
    return False


def request(
    port: int, stream: bool = False, extra: dict[str, str] | None = None, first: str = ""
) -> bytes:
    """Write a chat of 3.7 KB. `extra`: more headers; `first`: what the prompt begins with."""
    turns = [{"role": "system", "content": first + "You help people with their papers. " * 40}]
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
