"""The documents keep to what is there: short first pages, links, examples, codes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from madang import errors, messages
from madang.cli import documents, fleet
from madang.cli.code import bring
from madang.control.first import PROJECT
from madang.registry.inspect import inspect
from madang.resources.manifest import read

ROOT = Path(__file__).parents[2]
FLEETS = ROOT / "examples" / "fleets"
PAGE_LINES_MAX = {
    "README.md": 120, "README.ko.md": 120, "ARCHITECTURE.md": 150, "CONTRIBUTING.md": 80,
}  # fmt: skip
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ERROR_ROW = re.compile(r"^\| (\d{3}) \| (\d+) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def kept(pattern: str) -> list[str]:
    """Every such file that is, or would be, in the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def examples(suffix: str) -> list[str]:
    return [name for name in kept(f"examples/*{suffix}") if (ROOT / name).parent != FLEETS]


@pytest.mark.parametrize("page", PAGE_LINES_MAX)
def test_a_first_page_is_short(page: str) -> None:
    assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= PAGE_LINES_MAX[page]


def broken_links(page: Path) -> Iterator[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, part = unquote(target).partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (part and part not in anchors(there)):
            yield target


def anchors(page: Path) -> set[str]:
    """Return the names under which the headings of a page are linked."""
    headings = HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", kept("*.md"))
def test_every_relative_link_leads_somewhere(page: str) -> None:
    assert list(broken_links(ROOT / page)) == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading, plain\n")
    page = tmp_path / "page.md"
    page.write_text("[a](there.md#a-heading-plain) [b](gone.md) [c](there.md#gone) [d](http://x)\n")
    assert list(broken_links(page)) == ["gone.md", "there.md#gone"]


@pytest.mark.parametrize("example", examples(".yaml"))
def test_an_example_can_be_applied_and_says_what_it_shows(example: str) -> None:
    text = (ROOT / example).read_text(encoding="utf-8")
    assert text.startswith("# ")
    for document in bring(documents.read(str(ROOT / example)))[0]:
        assert read(document.value, PROJECT).kind == document.value["kind"]


@pytest.mark.parametrize(("example", "nodes"), [("korea", 40), ("openb", 1213)])
def test_an_example_of_a_fleet_can_be_simulated_and_says_what_it_shows(
    example: str, nodes: int
) -> None:
    assert (FLEETS / f"{example}.yaml").read_text(encoding="utf-8").startswith("# ")
    assert len(fleet.read(str(FLEETS / f"{example}.yaml"))["nodes"]) == nodes


@pytest.mark.parametrize("example", examples(".json"))
def test_an_example_of_a_model_can_be_imported(example: str) -> None:
    path = ROOT / example
    with path.open("rb") as file:
        assert inspect(file, path.stat().st_size).format == "fake"


def error_rows() -> list[tuple[int, int, list[str]]]:
    """Read the table of the API's page: HTTP status, exit code, codes."""
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    found = ERROR_ROW.findall(text)
    return [(int(http), int(end), re.findall(r"`([^`]+)`", codes)) for http, end, codes in found]


def test_every_code_of_the_error_table_has_a_sentence() -> None:
    codes = [code for _, _, each in error_rows() for code in each]
    assert len(codes) > 20
    assert [code for code in codes if not messages.knows(code)] == []


def test_the_error_table_has_a_row_for_every_kind_of_error() -> None:
    named = [each for each in vars(errors).values() if isinstance(each, type)]
    kinds = [each for each in named if issubclass(each, errors.MadangError)]
    assert {(http, end) for http, end, _ in error_rows()} == {
        (kind.http_status, kind.exit_status) for kind in kinds
    }
