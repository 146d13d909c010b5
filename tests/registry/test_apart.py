"""A stranger's file is read in a process that can do next to nothing, whatever is in it."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 - what must never be loaded is written here
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from madang.errors import Rejected
from madang.registry import apart
from madang.registry.apart import inspect_apart
from madang.registry.blobs import FileBlobs
from madang.registry.importing import import_model

Make = Callable[..., bytes]


def head(tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


def entry(key: str, kind: int, written: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + written


def tensor(dimensions: int, shape: tuple[int, ...], offset: int) -> bytes:
    name = struct.pack("<Q", 1) + b"t"
    sizes = struct.pack(f"<I{len(shape)}Q", dimensions, *shape)
    return name + sizes + struct.pack("<IQ", 0, offset)


ARCHITECTURE = entry("general.architecture", 8, struct.pack("<Q", 5) + b"llama")
WORST = {
    "an array of 2^40": head(0, 1) + entry("a", 9, struct.pack("<IQ", 4, 2**40)),
    "strings of 2^40": head(0, 1) + entry("a", 9, struct.pack("<IQ", 8, 2**40)),
    "arrays in arrays": head(0, 1) + entry("a", 9, struct.pack("<IQ", 9, 2**40)),
    "2^60 keys": head(0, 2**60),
    "2^63 tensors": head(2**63, 0),
    "2^32-1 dimensions": head(1, 1) + ARCHITECTURE + tensor(2**32 - 1, (1,), 0),
    "an alignment of 2^31": head(0, 2) + ARCHITECTURE
    + entry("general.alignment", 4, struct.pack("<I", 2**31)),
    "an empty dimension": head(1, 1) + ARCHITECTURE + tensor(2, (0, 4), 0),
    "2^63 elements": head(1, 1) + ARCHITECTURE + tensor(2, (2**63, 2), 0),
    "a place outside the file": head(1, 1) + ARCHITECTURE + tensor(1, (1,), 2**62),
    "one place for two": head(2, 1) + ARCHITECTURE + tensor(1, (8,), 0) * 2,
    "a string of 2^63": head(0, 1) + struct.pack("<Q", 2**63),
    "the magic alone": b"GGUF",
}  # fmt: skip


def read(path: Path) -> Any:
    with path.open("rb") as file:
        return inspect_apart(file, path.stat().st_size)


@pytest.mark.parametrize("what", WORST)
def test_the_worst_files_are_refused_within_two_seconds_of_computing(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(WORST[what] + bytes(64))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(Rejected) as refused:
        read(path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert refused.value.code == "model.malformed"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 2


MUTANTS = """
import io, random, sys
from madang.errors import Rejected
from madang.registry import apart
from madang.registry.inspect import inspect
whole = open(sys.argv[-1], "rb").read()
apart.confine(apart.LIMITS)
random.seed(2026)
files = [whole[:at] for at in range(0, len(whole), 64)]
for _ in range(300):
    changed = bytearray(whole)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = random.randrange(min(len(changed), 600))
        changed[at] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
    files.append(bytes(changed))
told = {"read": 0, "refused": 0}
for each in files:
    try:
        inspect(io.BytesIO(each), len(each))
        told["read"] += 1
    except Rejected as error:
        assert error.code.startswith("model."), error
        told["refused"] += 1
sys.stdout.write(repr(told))
"""


def test_hundreds_of_mutated_files_fit_into_the_limits_of_one(
    tmp_path: Path, gguf_file: Make
) -> None:
    path = tmp_path / "whole.gguf"
    path.write_bytes(gguf_file())
    argv = [sys.executable, "-I", "-c", MUTANTS, str(path)]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=True).stdout
    counts = json.loads(told.replace("'", '"'))
    assert counts["read"] + counts["refused"] >= 300
    assert counts["refused"] > 200


HOSTILE = {
    "hog": ("hoard = []\n    while True: hoard.append(bytearray(1 << 24))", "MiB of memory"),
    "spin": ("while True: pass", "s of computing"),
    "sleep": ("import time; time.sleep(600)", "took more than"),
    "crash": ("import os; os.kill(os.getpid(), 11)", "ended with status -11"),
    "exit": ("import os; os._exit(3)", "ended with status 3"),
    "chatter": ("import sys\n    while True: sys.stdout.write('{' * 4096)", "took more than"),
    "garble": ("import os; os.write(1, b'[1]'); os._exit(0)", "ended with status 0"),
    "open": ("open('/etc/passwd')", "ended with status 1"),
    "socket": ("import _socket; _socket.socket()", "ended with status 1"),
    "pipe": ("import os; os.pipe()", "ended with status 1"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_reader_that_a_file_has_taken_over_costs_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    deed, cause = HOSTILE[how]
    taken = f"""
import socket, time
from madang.registry import apart
def inspect(file, size):
    {deed}
apart.inspect = inspect
apart.main()
"""
    monkeypatch.setattr(apart, "READER", ("-c", taken))
    limits = replace(apart.LIMITS, wall_s=3.0 if how == "sleep" else 30.0)
    monkeypatch.setattr(apart, "LIMITS", limits)
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(Rejected) as refused:
        read(path)
    assert refused.value.code == "model.unreadable"
    assert cause in str(refused.value.values["cause"])


class Canary:
    """Makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors", "model.pkl", "model.json"])
def test_a_pickle_by_any_name_is_refused_and_never_loaded(
    tmp_path: Path, protocol: int, name: str
) -> None:
    canary, path = tmp_path / "canary", tmp_path / name
    path.write_bytes(pickle.dumps(Canary(canary), protocol))
    with pytest.raises(Rejected) as refused:
        import_model(str(path), FileBlobs(tmp_path / "blobs"))
    assert refused.value.code in {"model.format-never", "model.format-unknown"}
    assert not canary.exists()
    assert not (tmp_path / "blobs").exists()
