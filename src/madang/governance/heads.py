"""Heads of the audit records: signed, and kept in a second place that only grows.

A head says how many records there are and what the digest of the last one is. Whoever changes,
cuts or puts back the records later can't make them fit the heads that were written before.
Ed25519 (RFC 8032); one JSON object a line, so that a line can be copied, mailed or printed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from nacl.bindings import (
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import CryptoError
from pydantic import Field, ValidationError

from madang.errors import Rejected, Unavailable
from madang.resources.resource import Frozen

SEED_BYTES = 32
SIGNATURE_BYTES = 64
LINE_BYTES_MAX = 1024
TAIL_BYTES = 1 << 16
"""Enough of the end of the file to hold its last whole line."""


class Head(Frozen):
    """What the records were at one moment."""

    store: str = Field(max_length=64)
    """Of which state; no two have the same."""
    seq: int = Field(ge=1, le=2**53)
    """Of the newest record."""
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    at: float
    """Unix seconds."""
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The public key that checks the signature, in hex."""
    signature: str = Field(pattern=r"^([0-9a-f]{128})?$", default="")

    def message(self) -> bytes:
        """Return what is signed."""
        body = self.model_dump(mode="json", exclude={"signature"})
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    def is_genuine(self) -> bool:
        """Tell whether whoever holds its key has signed it."""
        try:
            crypto_sign_open(
                bytes.fromhex(self.signature) + self.message(), bytes.fromhex(self.key)
            )
        except (CryptoError, ValueError):
            return False
        return True


class Signer:
    """Signs heads with the key of one home."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a key has {SEED_BYTES} bytes")
        public, self._secret = crypto_sign_seed_keypair(seed)
        self.key = public.hex()
        """The public key, in hex: give it to auditors."""

    def sign(self, store: str, seq: int, digest: str, at: float) -> Head:
        """Return the signed head."""
        head = Head(store=store, seq=seq, digest=digest, at=at, key=self.key)
        signature = crypto_sign(head.message(), self._secret)[:SIGNATURE_BYTES]
        return head.model_copy(update={"signature": signature.hex()})


class HeadsFile:
    """The second place: a file that is only ever appended to, best on another disk or machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, head: Head) -> None:
        """Write one head durably; raises `Unavailable`, and then nothing of it is there."""
        line = head.model_dump_json().encode() + b"\n"
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # a head is never written over another
                _append(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            cause = error.strerror or str(error)
            raise Unavailable("audit.unwritable", str(self.path), cause=cause) from error

    def newest(self, store: str) -> Head | None:
        """Return the last head of that state; None where there is none near the end."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL_BYTES))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return None
        except OSError as error:
            cause = error.strerror or str(error)
            raise Unavailable("audit.unreadable", str(self.path), cause=cause) from error
        heads = (head for line in reversed(lines) if (head := _parsed(line)))
        return next((head for head in heads if head.store == store), None)

    def all(self) -> Iterator[Head]:
        """Yield every head, oldest first; raises `Rejected` for a line that is none."""
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX), b""), 1):
                    head = _parsed(line)
                    if head is None:
                        raise Rejected("audit.bad-heads", str(self.path), line=number)
                    yield head
        except OSError as error:
            cause = error.strerror or str(error)
            raise Unavailable("audit.unreadable", str(self.path), cause=cause) from error


def _append(descriptor: int, line: bytes) -> None:
    """Write a line at the end, behind a whole line; a torn one of an earlier life is cut."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, LINE_BYTES_MAX, max(0, size - LINE_BYTES_MAX))
    size -= len(tail) - (tail.rfind(b"\n") + 1)
    try:
        if os.pwrite(descriptor, line, size) != len(line):
            raise OSError("the disk took only a part")
        os.ftruncate(descriptor, size + len(line))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _parsed(line: bytes) -> Head | None:
    try:
        return Head.model_validate_json(line)
    except ValidationError:
        return None
