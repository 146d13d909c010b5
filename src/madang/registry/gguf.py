"""The header of a GGUF file, read as what it is: bytes from a stranger.

Every count, length and depth has a bound, and nothing is kept but what is asked for. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from madang.errors import Rejected

MAGIC = b"GGUF"
VERSIONS = (2, 3)

HEADER_BYTES_MAX = 64 << 20
"""Keys, values and tensor descriptions together."""
KEYS_MAX = 4_096
KEPT_MAX = 64
"""Values that are kept; a real header has a dozen."""
TENSORS_MAX = 65_536
KEY_BYTES_MAX = 1_024
TENSOR_NAME_BYTES_MAX = 127
STRING_BYTES_MAX = 4 << 20
TEXT_BYTES_KEPT = 1_024
"""Of a string that is kept."""
TEMPLATE_BYTES_KEPT = 256 << 10
"""Of a chat template; the longest known is a tenth of that."""
STRINGS_MAX = 1_500_000
"""Strings in all arrays together; the largest vocabularies have half of it."""
LAYERS_MAX = 1_024
NUMBER_MAX = 10**12
"""No context, head or layer count is larger."""
DIMENSIONS_MAX = 4
ALIGNMENT_MAX = 1 << 16
LICENCE_LENGTH_MAX = 200
CACHE_BYTES_PER_VALUE = 2
"""The cache holds 16-bit floats."""

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i",
    6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_SMALLEST = {_STRING: 8, **{kind: struct.calcsize(code) for kind, code in _SCALARS.items()}}

_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 36), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip
"""Elements and bytes of one block, by ggml's number of the tensor's type."""

Value = str | int | float | list[int]


@dataclass(frozen=True, slots=True)
class Header:
    """What placing and serving a model needs of its header."""

    architecture: str
    parameters: int
    context_tokens: int
    """Trained context; 0 where the file does not say."""
    kv_bytes_per_token: int
    """Cache of one token over all layers, in bytes, as 16-bit floats."""
    licence: str
    chat_template: bool
    template_takes: tuple[str, ...] = ()
    """What its chat template puts into the prompt beside turns: `tools`, `reasoning`."""


def read(file: BinaryIO, size_bytes: int) -> Header:
    """Read the header of an open file of that size, from its start; raises `Rejected`."""
    header = _Reader(file, size_bytes)
    if header.take(4) != MAGIC:
        _refuse("it does not start with GGUF")
    version, tensors, keys = header.numbers("<IQQ")
    if version not in VERSIONS:
        _refuse(f"version {version} of the format")
    values = _keys(header, keys)
    parameters = _tensors(header, tensors, _alignment(values))
    return _header(values, parameters)


@dataclass(slots=True)
class _Reader:
    """The only way to the bytes: never past the end, never past the bound."""

    file: BinaryIO
    size: int
    at: int = 0
    strings: int = 0

    def take(self, count: int) -> bytes:
        self.expect(count)
        found = self.file.read(count)
        if len(found) != count:
            _refuse("it ends early")
        self.at += count
        return found

    def skip(self, count: int) -> None:
        self.expect(count)
        self.file.seek(count, 1)
        self.at += count

    def expect(self, count: int) -> None:
        """Refuse before reading what cannot be there."""
        if count > self.size - self.at:
            _refuse("it ends early")
        if self.at + count > HEADER_BYTES_MAX:
            _refuse(f"a header above {HEADER_BYTES_MAX} bytes")

    def numbers(self, code: str) -> tuple[int, ...]:
        return struct.unpack(code, self.take(struct.calcsize(code)))

    def text(self, limit: int, kept: int) -> bytes:
        """Read a string of at most `limit` bytes and return the first `kept` of them."""
        count = int.from_bytes(self.take(8), "little")
        if count > limit:
            _refuse(f"a string of {count} bytes")
        found = self.take(min(count, kept))
        self.skip(count - len(found))
        return found

    def skip_strings(self, count: int) -> None:
        self.strings += count
        if self.strings > STRINGS_MAX:
            _refuse(f"{self.strings} strings")
        for _ in range(count):
            self.text(STRING_BYTES_MAX, 0)


def _refuse(cause: str) -> NoReturn:
    raise Rejected("model.malformed", format="gguf", cause=cause)


def _keys(header: _Reader, count: int) -> dict[str, Value]:
    if count > KEYS_MAX:
        _refuse(f"{count} keys")
    values: dict[str, Value] = {}
    seen = set()
    for _ in range(count):
        written = header.text(KEY_BYTES_MAX, KEY_BYTES_MAX)
        if written in seen:
            _refuse("a key that comes twice")
        seen.add(written)
        key = written.decode(errors="replace")
        (kind,) = header.numbers("<I")
        wanted = key in _WANTED or key.partition(".")[2] in _WANTED_OF_ARCHITECTURE
        kept = TEMPLATE_BYTES_KEPT if key == _TEMPLATE else TEXT_BYTES_KEPT
        value = _value(header, kind, kept if wanted else 0)
        if value is not None:
            values[key] = value
        if len(values) > KEPT_MAX:
            _refuse(f"more than {KEPT_MAX} architectures")
    return values


_TEMPLATE = "tokenizer.chat_template"
_WANTED = frozenset({
    "general.architecture", "general.alignment", "general.license", "split.count", _TEMPLATE,
})  # fmt: skip
_TAKES = {"tools": "tools", "reasoning_effort": "reasoning", "enable_thinking": "reasoning"}
"""Names of what an engine gives to a template, and what they stand for."""
_WANTED_OF_ARCHITECTURE = frozenset({
    "context_length", "embedding_length", "block_count", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length",
})  # fmt: skip


def _value(header: _Reader, kind: int, kept: int) -> Value | None:
    """Read one value, or skip it for 0 bytes kept; None too for an array of no integers."""
    wanted = kept > 0
    if kind == _STRING:
        text = header.text(STRING_BYTES_MAX, kept)
        return text.decode(errors="replace") if wanted else None
    if kind == _ARRAY:
        return _array(header, wanted=wanted)
    if kind not in _SCALARS:
        _refuse(f"a value of the unknown type {kind}")
    (number,) = header.numbers(_SCALARS[kind])
    return number if wanted else None


def _array(header: _Reader, *, wanted: bool) -> list[int] | None:
    kind, count = header.numbers("<IQ")
    if kind not in _SMALLEST:
        _refuse(f"an array of the type {kind}")
    if kind == _STRING:
        header.skip_strings(count)
        return None
    if not wanted or _SCALARS[kind] in {"<f", "<d"} or count > LAYERS_MAX:
        header.skip(count * _SMALLEST[kind])
        return None
    return list(header.numbers(f"<{count}{_SCALARS[kind][1]}"))


def _alignment(values: dict[str, Value]) -> int:
    found = values.get("general.alignment", 32)
    if not isinstance(found, int) or not 8 <= found <= ALIGNMENT_MAX or found & (found - 1):
        _refuse("an alignment that is none")
    return found


def _tensors(header: _Reader, count: int, alignment: int) -> int:
    """Check that all tensors lie inside the file, side by side; return their elements."""
    if count > TENSORS_MAX:
        _refuse(f"{count} tensors")
    parameters = 0
    extents = []
    names = set()
    for _ in range(count):
        names.add(header.text(TENSOR_NAME_BYTES_MAX, TENSOR_NAME_BYTES_MAX))
        elements, length = _shape(header)
        (offset,) = header.numbers("<Q")
        if offset % alignment:
            _refuse("a tensor that is not aligned")
        parameters += elements
        extents.append((offset, offset + length))
    if len(names) != count:
        _refuse("a tensor that comes twice")
    free = 0
    start = -(-header.at // alignment) * alignment
    for begin, end in sorted(extents):
        if begin < free or start + end > header.size:
            _refuse("a tensor outside its place")
        free = end
    return parameters


def _shape(header: _Reader) -> tuple[int, int]:
    """Read a tensor's shape and type; return its elements and bytes."""
    (count,) = header.numbers("<I")
    if not 1 <= count <= DIMENSIONS_MAX:
        _refuse(f"a tensor of {count} dimensions")
    shape = header.numbers(f"<{count}Q")
    (kind,) = header.numbers("<I")
    if kind not in _BLOCKS:
        _refuse(f"a tensor of the unknown type {kind}")
    per_block, block_bytes = _BLOCKS[kind]
    if not all(shape) or shape[0] % per_block:
        _refuse("a tensor whose shape does not fit its type")
    elements = math.prod(shape)
    return elements, elements // per_block * block_bytes


def _header(values: dict[str, Value], parameters: int) -> Header:
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or not re.fullmatch(r"[a-z0-9_-]{1,64}", architecture):
        _refuse("no architecture")
    if _number(values, "split.count") > 1:
        raise Rejected("model.format-not-yet", format="gguf in several files")
    licence = str(values.get("general.license", ""))
    template = str(values.get(_TEMPLATE, ""))
    taken = {what for name, what in _TAKES.items() if re.search(rf"\b{name}\b", template)}
    return Header(
        architecture=architecture,
        parameters=parameters,
        context_tokens=_number(values, f"{architecture}.context_length"),
        kv_bytes_per_token=_kv_bytes_per_token(values, architecture),
        licence="".join(c for c in licence if c.isprintable())[:LICENCE_LENGTH_MAX],
        chat_template=bool(template),
        template_takes=tuple(sorted(taken)),
    )


def _kv_bytes_per_token(values: dict[str, Value], architecture: str) -> int:
    """Sum over layers of cache heads x (key + value length) x 2 bytes."""
    layers = _number(values, f"{architecture}.block_count")
    if layers > LAYERS_MAX:
        _refuse(f"{layers} layers")
    width = _number(values, f"{architecture}.embedding_length")
    attention = f"{architecture}.attention"
    heads = _per_layer(values, f"{attention}.head_count", [0] * layers)
    cached = _per_layer(values, f"{attention}.head_count_kv", heads)
    key_length = _number(values, f"{attention}.key_length")
    value_length = _number(values, f"{attention}.value_length")
    total = 0
    for own, kept in zip(heads, cached, strict=True):
        length = width // own if own else 0
        total += kept * ((key_length or length) + (value_length or length))
    return total * CACHE_BYTES_PER_VALUE


def _number(values: dict[str, Value], key: str) -> int:
    return _checked(values.get(key, 0))


def _per_layer(values: dict[str, Value], key: str, otherwise: list[int]) -> list[int]:
    """Return a number for each layer, whether the file says one for all or a list."""
    found = values.get(key, otherwise)
    listed = found if isinstance(found, list) else [_checked(found)] * len(otherwise)
    if len(listed) != len(otherwise):
        _refuse(f"{len(listed)} numbers for {len(otherwise)} layers")
    return [_checked(each) for each in listed]


def _checked(number: Value) -> int:
    if type(number) is not int or not 0 <= number <= NUMBER_MAX:
        _refuse("a count that is none")
    return number
