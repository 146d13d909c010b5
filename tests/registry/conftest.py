"""Small model files, written by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

U8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10
F32_TENSOR = 0
ALIGNMENT = 32

Entry = tuple[str, int, Any]

SMALL: tuple[Entry, ...] = (
    ("general.architecture", STRING, "llama"),
    ("general.license", STRING, "apache-2.0"),
    ("llama.context_length", U32, 8192),
    ("llama.block_count", U32, 2),
    ("llama.embedding_length", U32, 64),
    ("llama.attention.head_count", U32, 8),
    ("llama.attention.head_count_kv", U32, 2),
    ("tokenizer.chat_template", STRING, "{{ messages }}"),
    ("tokenizer.ggml.tokens", ARRAY, (STRING, ["a", "나", "c"])),
    ("tokenizer.ggml.scores", ARRAY, (F32, [0.5, 1.0, 2.0])),
    ("tokenizer.ggml.add_bos", BOOL, True),
)
TENSORS: tuple[tuple[str, tuple[int, ...]], ...] = (("embed", (64, 3)), ("out", (64,)))


def text(written: str) -> bytes:
    return struct.pack("<Q", len(written.encode())) + written.encode()


def value(kind: int, given: Any) -> bytes:
    if kind == STRING:
        return text(given)
    if kind == ARRAY:
        inner, items = given
        return struct.pack("<IQ", inner, len(items)) + b"".join(value(inner, i) for i in items)
    return struct.pack({U8: "<B", U32: "<I", F32: "<f", BOOL: "<?", U64: "<Q"}[kind], given)


def gguf_bytes(
    entries: tuple[Entry, ...] = SMALL,
    tensors: tuple[tuple[str, tuple[int, ...]], ...] = TENSORS,
    **changed: Entry | None,
) -> bytes:
    """Write a whole file; `changed` replaces or (None) leaves out an entry by its last part."""
    kept = [changed.get(e[0].rpartition(".")[2], e) for e in entries]
    body = [text(key) + struct.pack("<I", kind) + value(kind, given)
            for key, kind, given in filter(None, kept)]  # fmt: skip
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(body)) + b"".join(body)
    offset = 0
    for name, shape in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", F32_TENSOR, offset)
        elements = 1
        for each in shape:
            elements *= each
        offset += -(-elements * 4 // ALIGNMENT) * ALIGNMENT
    return head + b"\0" * (-len(head) % ALIGNMENT + offset)


@pytest.fixture(scope="session")
def gguf_file() -> Callable[..., bytes]:
    return gguf_bytes
