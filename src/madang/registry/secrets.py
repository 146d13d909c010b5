"""Texts that jobs are given by name: one sealed file each, apart from everything that is copied.

They are no part of the state, so neither of its events, records, exports nor backups. The key that
opens them lies beside: that keeps out who gets hold of the files alone, not who owns the home.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Collection
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.utils import random

from madang.errors import Unavailable, refuse_lack

PART = ".part"
PART_S = 600.0
"""A file that has been in the making for so long is left of a process that was killed."""


class FileSecrets:
    """Sealed files under one folder, by the uid of the secret."""

    def __init__(self, root: Path, key: Path) -> None:
        self._root, self._key = root, key

    def put(self, uid: str, text: str) -> None:
        """See `Secrets.put`."""
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._key.exists():
                _write(self._key, random(SecretBox.KEY_SIZE))
            sealed = SecretBox(self._key.read_bytes()).encrypt(text.encode())
            _write(self._root / uid, bytes(sealed))
        except (OSError, ValueError) as error:
            refuse_lack(error)
            raise Unavailable("secret.write-failed", uid, cause=_cause(error)) from None

    def get(self, uid: str) -> str:
        """See `Secrets.get`."""
        try:
            sealed = (self._root / uid).read_bytes()
            return SecretBox(self._key.read_bytes()).decrypt(sealed).decode()
        except (OSError, ValueError, CryptoError) as error:
            refuse_lack(error)
            raise Unavailable("secret.lost", uid, cause=_cause(error)) from None

    def kept(self) -> Collection[str]:
        """See `Secrets.kept`."""
        with contextlib.suppress(FileNotFoundError):
            return [path.name for path in self._root.iterdir() if not _in_the_making(path)]
        return ()

    def remove(self, uid: str) -> None:
        """See `Secrets.remove`."""
        (self._root / uid).unlink(missing_ok=True)


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _in_the_making(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.suffix == PART and time.time() - path.stat().st_mtime < PART_S
    return True


def _write(path: Path, content: bytes) -> None:
    """Write a file for its owner alone, whole or not at all."""
    part = path.with_name(f".{secrets.token_hex(8)}{PART}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with open(part, "wb", opener=lambda name, _flags: os.open(name, flags, 0o600)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
