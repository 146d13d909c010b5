"""What a model file is, by its own bytes and never by its name: an allow-list of formats."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

from pydantic_core import from_json

from madang.errors import Rejected
from madang.registry import gguf

SCRIPT_BYTES_MAX = 64 << 10
"""The fake engine's model is a small script."""
CONTEXT_TOKENS_MAX = 1 << 30

_START_BYTES = 16
_SCRIPT = re.compile(rb'\s*\{\s*"fake"\s*:\s*1\s*[,}]')
_NEVER = {
    b"PK\x03\x04": "zip archive or PyTorch checkpoint",
    b"PK\x05\x06": "zip archive or PyTorch checkpoint",
    b"\x80\x02": "pickle", b"\x80\x03": "pickle", b"\x80\x04": "pickle", b"\x80\x05": "pickle",
    b"\x89HDF": "HDF5 with Keras code",
    b"\x7fELF": "program",
    b"#!": "program",
}  # fmt: skip
"""They can carry code that runs when they are opened."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was read from a model file."""

    format: str
    architecture: str = ""
    parameters: int = 0
    context_tokens: int = 0
    kv_bytes_per_token: int = 0
    licence: str = ""
    chat_template: bool = False
    template_takes: tuple[str, ...] | None = None
    """None: nothing is known of that."""


def inspect(file: BinaryIO, size_bytes: int) -> Found:
    """Read an open file of that size; raises `Rejected` with code `model.*`."""
    file.seek(0)
    start = file.read(_START_BYTES)
    file.seek(0)
    if start.startswith(gguf.MAGIC):
        header = gguf.read(file, size_bytes)
        return Found(
            "gguf", header.architecture, header.parameters, header.context_tokens,
            header.kv_bytes_per_token, header.licence, header.chat_template,
            header.template_takes,
        )  # fmt: skip
    for magic, name in _NEVER.items():
        if start.startswith(magic):
            raise Rejected("model.format-never", format=name)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size_bytes:
        raise Rejected("model.format-not-yet", format="safetensors")
    if start.lstrip().startswith(b"{"):
        return _script(file.read(SCRIPT_BYTES_MAX + 1))
    raise Rejected("model.format-unknown", start=start[:8].hex())


def _script(written: bytes) -> Found:
    """Read a script of the fake engine: a JSON object that starts with `"fake": 1`."""
    if not _SCRIPT.match(written):
        raise Rejected("model.format-unknown", start=written[:8].hex())
    if len(written) > SCRIPT_BYTES_MAX:
        raise Rejected("model.malformed", format="fake", cause="more than 64 KiB")
    try:
        script = from_json(written, allow_inf_nan=False)
    except ValueError as error:
        raise Rejected("model.malformed", format="fake", cause=str(error)) from error
    context = script.get("context_tokens", 0)
    if type(context) is not int or not 0 <= context <= CONTEXT_TOKENS_MAX:
        raise Rejected("model.malformed", format="fake", cause="context_tokens is no count")
    return Found("fake", architecture="fake", context_tokens=context, chat_template=True)
