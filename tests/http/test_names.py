"""Names and ids: one canonical form at every way in, and never a part of a path."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from madang.supervisor.children import Refused
from madang.supervisor.orders import _name

from .conftest import Yard

NFC, NFD = "한글봇", unicodedata.normalize("NFD", "한글봇")
LOOK_ALIKES = {
    "Cyrillic": ("bоt", "U+043E CYRILLIC SMALL LETTER O"),
    "full width": ("ｂot", "U+FF42 FULLWIDTH LATIN SMALL LETTER B"),
    "half-width Hangul": ("ﾻﾽ", "U+FFBB HALFWIDTH HANGUL LETTER KHIEUKH"),
    "a lone jamo": ("ᄒ", "U+1112 HANGUL CHOSEONG HIEUH"),
    "compatibility jamo": ("ㅎ", "U+314E HANGUL LETTER HIEUH"),
    "zero width": ("bo\u200bt", "U+200B ZERO WIDTH SPACE"),
    "turned round": ("bo\u202et", "U+202E RIGHT-TO-LEFT OVERRIDE"),
    "escape": ("bo\x1b[2Jt", "U+001B"),
    "upper case": ("Bot", "U+0042 LATIN CAPITAL LETTER B"),
    "a final sigma": ("botς", "U+03C2 GREEK SMALL LETTER FINAL SIGMA"),
    "an accent": ("bót", "U+00F3 LATIN SMALL LETTER O WITH ACUTE"),
    "Hanja": ("韓", "U+97D3 CJK UNIFIED IDEOGRAPH-97D3"),
    "a tag": ("bot\U000e0041", "U+E0041 TAG LATIN CAPITAL LETTER A"),
}
PATHS = [
    "../x", "..", "a/../../x", "/etc/passwd", "..\\x", "~root", "file:///etc/passwd", "a%2fb",
    "#/../../etc", "x.json", "con:", "a\nb", "sha256:" + "0" * 64, "sha256:../../../x", "a b",
    "$(id)", "%2e%2e%2fx", "..%2f", "....//", "a;b", "a|b", "*", "?", "가" * 22, "a" * 300,
]  # fmt: skip


async def test_hangul_is_one_name_in_whatever_form_it_is_typed(yard: Yard) -> None:
    await yard.add_model(NFD)
    await yard.apply({"kind": "service", "name": NFD, "model": NFD})
    again = await yard.apply({"kind": "service", "name": NFC, "model": NFC})
    assert again["changes"][0]["what"] == "unchanged"
    await yard.until("service", NFC, "ready")
    for form in (NFC, NFD):
        for path in (f"service/{form}", f"model/{form}", f"endpoint/{form}"):
            assert (await yard.get(path))["name"] == NFC, path
        assert (await yard.get(f"service/{form}/explanation"))["subject"] == f"service/{NFC}"
        assert (await yard.get(f"service/{form}/logs"))["items"]
        assert (await yard.client.post("/api/v1/key", json={"name": form})).status_code in {
            200,
            409,
        }
    assert [k["name"] for k in (await yard.get("key"))["items"]].count(NFC) == 1
    assert (await yard.client.delete(f"/api/v1/service/{NFD}")).is_success
    await yard.until_gone("service", NFC)


async def test_a_project_is_one_name_in_whatever_form_it_is_typed(yard: Yard) -> None:
    await yard.apply(
        {"kind": "organization", "name": NFD}, {"kind": "project", "name": f"{NFD}/{NFD}"}
    )
    listed = await yard.get("project", project=f"{NFD}/{NFC}")
    assert [p["name"] for p in listed["items"]] == [NFC]
    assert (await yard.get(f"project/{NFC}/{NFD}"))["project"] == f"{NFC}/{NFC}"


@pytest.mark.parametrize("kind", LOOK_ALIKES)
async def test_a_look_alike_is_refused_and_named(yard: Yard, kind: str) -> None:
    name, called = LOOK_ALIKES[kind]
    document = {"kind": "organization", "name": name}
    for answer in (
        await yard.client.post("/api/v1/apply", json={"documents": [document]}),
        await yard.client.post("/api/v1/key", json={"name": name}),
        await yard.client.get(f"/api/v1/service/{quote(name)}"),
        await yard.client.get("/api/v1/service", params={"project": f"local/{name}"}),
    ):
        assert answer.status_code == 400, answer.url
        assert called in answer.json()["error"]["message"]


WRITES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink",
          "os.truncate", "os.chmod", "os.listdir", "os.scandir")  # fmt: skip
_watch: list[list[str]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Note every file that this process touches while somebody watches."""
    if _watch and event in WRITES and isinstance(arguments[0], str | bytes):
        path = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
        _watch[-1].append(path)


sys.addaudithook(_audit)


@pytest.mark.parametrize("name", PATHS)
async def test_no_name_is_ever_part_of_a_path(yard: Yard, name: str) -> None:
    touched: list[str] = []
    _watch.append(touched)
    try:
        escaped = quote(name, safe="")
        documents = [
            {"kind": "organization", "name": name}, {"kind": "project", "name": name},
            {"kind": "service", "name": name, "model": "tiny"},
            {"kind": "service", "name": "b", "model": name},
            {"kind": "service", "name": "b", "model": "tiny", "recipe": name},
            {"kind": "service", "name": "b", "model": "tiny", "project": name},
        ]  # fmt: skip
        answers = [
            await yard.client.post("/api/v1/apply", json={"documents": [d]}) for d in documents
        ]
        answers += [
            await yard.client.post("/api/v1/model", json={"name": name, "source": "/none"}),
            await yard.client.post("/api/v1/key", json={"name": name}),
            await yard.client.post("/api/v1/key", json={"name": "k", "project": name}),
            await yard.client.get(f"/api/v1/process/{escaped}/logs"),
            await yard.client.get("/api/v1/service", params={"project": name}),
        ]
        for kind in ("service", "model", "build", "replica", "node", "project", "key"):
            for rest in ("", "/logs", "/explanation"):
                answers.append(await yard.client.get(f"/api/v1/{kind}/{escaped}{rest}"))
            answers.append(await yard.client.delete(f"/api/v1/{kind}/{escaped}"))
    finally:
        _watch.pop()
    assert {a.status_code for a in answers} <= {400, 404, 405}, [
        (a.url, a.status_code) for a in answers
    ]
    outside = [
        p for p in touched if not p.startswith((str(yard.home.path), sys.prefix, sys.base_prefix))
    ]
    source = str(Path(__file__).parents[2] / "src")
    assert [p for p in outside if not p.startswith((source, "/proc/", "/sys/"))] == []
    inside = [p.removeprefix(str(yard.home.path)) for p in touched]
    assert len(name) < 3 or not [p for p in inside if name in p]


@pytest.mark.parametrize("uid", [*PATHS, "", "A", "가", "a\0", "a" * 64, None, 7])
def test_the_supervisor_makes_files_of_plain_uids_only(uid: Any) -> None:
    with pytest.raises(Refused):
        _name(uid)


@pytest.mark.parametrize(
    "digest", ["sha256:../../../x", "../x", "sha256:" + "0" * 63, "sha256:" + "G" * 64]
)
def test_a_digest_that_is_none_is_no_file(tmp_path: Path, digest: str) -> None:
    from madang.errors import Unavailable
    from madang.registry.blobs import FileBlobs

    (tmp_path / "x.json").write_text(
        json.dumps({"path": "/etc/passwd", "size_bytes": 1, "mtime_ns": 1})
    )
    blobs = FileBlobs(tmp_path / "blobs")
    with pytest.raises(Unavailable):
        blobs.path(digest)
    blobs.remove(digest)
    assert (tmp_path / "x.json").exists()
