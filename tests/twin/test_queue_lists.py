"""Lists of jobs as strangers write them, at the command: the right answer, or what is wrong."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from madang.cli import main
from madang.twin import jobs as lists
from madang.twin.trace import LINE_CHARACTERS_MAX

HEAD = "arrival_s,tenant,gpus,duration_s"
ROWS = ("0,a,1,3600", "7200,b,2,7200")
PLAIN = "\n".join([HEAD, *ROWS, ""]).encode()
KEYS = ("mean_jct_h", "p95_jct_h", "p95_wait_h", "unfair", "worst_project", "p99_wait_h",
        "max_wait_h", "preemptions", "redone_share", "utilisation")  # fmt: skip
Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(tmp_path, capsys) -> Ask:
    """Ask about a list on two accelerators."""

    def ask(content: bytes | str, *more: str) -> tuple[int, str, str]:
        path = tmp_path / "jobs.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        status = main(["twin", "queue", "--jobs", str(path), "--gpus", "2", "--json", *more])
        return status, *capsys.readouterr()

    return ask


@pytest.fixture
def right(ask) -> str:
    """Return the right answer."""
    status, out, _ = ask(PLAIN)
    assert status == 0
    assert [json.loads(out)["fifo"][key] for key in ("mean_jct_h", "jobs")] == [1.5, 2]
    return out


def test_an_answer_has_the_promised_keys_for_every_policy(right):
    answer = json.loads(right)
    assert list(answer) == ["madang", "fifo", "easy", "las", "wfs", "srtf"]
    for found in answer.values():
        assert all(isinstance(found[key], (int, float)) for key in KEYS)
        assert found["utilisation"] == 0.25  # one of two, for half of the time in which jobs came


@pytest.mark.parametrize("content", [
    gzip.compress(PLAIN, mtime=0),
    b"\xef\xbb\xbf" + PLAIN,
    PLAIN.replace(b"\n", b"\r\n"),
    PLAIN.removesuffix(b"\n"),
    PLAIN + b"\n\n",
    "\n".join([HEAD, *reversed(ROWS)]),
    "job_id, arrival_s, tenant, gpus, duration_s, more\n1, 0, a, 1, 3600,\n2, 7200, b, 2, 7200,",
    "gpus,duration_v100_s,tenant,arrival_s\n1,3600,a,-50\n2,7200,b,7150",
    '"arrival_s","tenant","gpus","duration_s"\n"0","a","1","3600"\n"7200","b","2","7200"',
    "timestamp,duration,num_gpus,cluster\n100,3600,1,a\n7300,7200,2,b",
    "timestamp,duration,num_gpus,cluster\n2020-01-01 02:00:00,7200,2,b\n2020-01-01,3600,1,a",
    "cluster,timestamp,duration,num_gpus\na,2020-01-01T00:00Z,3600,1\nb,2020-01-01T11:00+09:00,7200,2",
])  # fmt: skip
def test_however_a_list_is_written_the_answer_is_the_same(ask, right, content):
    assert ask(content)[:2] == (0, right)


@pytest.mark.parametrize("content", [PLAIN, gzip.compress(PLAIN, mtime=0)])
def test_a_list_comes_from_standard_input_as_well(right, monkeypatch, capsys, content):
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["twin", "queue", "--jobs", "-", "--gpus", "2", "--json"]) == 0
    assert capsys.readouterr().out == right


def test_gangs_that_never_fit_are_left_out_and_people_are_told(ask, tmp_path, capsys):
    content = "\n".join([HEAD, *ROWS, "5,a,3,60", "6,a,0,60", "7,c,999999,60"])
    answer = json.loads(ask(content)[1])
    assert {(found["jobs"], found["left_out"]) for found in answer.values()} == {(2, 3)}
    assert main(["twin", "queue", "--jobs", str(tmp_path / "jobs.csv"), "--gpus", "2"]) == 0
    assert "3 jobs" in capsys.readouterr().err


def test_durations_that_are_huge_count_as_a_fortnight(ask):
    answer = json.loads(ask(f"{HEAD}\n0,a,1,1e300\n")[1])
    assert {found["mean_jct_h"] for found in answer.values()} == {14 * 24.0}


@pytest.mark.parametrize(("row", "column"), [
    ("x,a,1,60", "arrival_s"), ("nan,a,1,60", "arrival_s"), ("inf,a,1,60", "arrival_s"),
    ("1e300,a,1,60", "arrival_s"), ("2020-13-01,a,1,60", "arrival_s"), (",a,1,60", "arrival_s"),
    ("0,,1,60", "tenant"), ("0,a,1.5,60", "gpus"), ("0,a,-1,60", "gpus"), ("0,a,,60", "gpus"),
    ("0,a,99999999,60", "gpus"), ("0,a,2000000,60", "gpus"), ("0,a,١,60", "gpus"),
    ("0,a,1,-60", "duration_s"), ("0,a,1,nan", "duration_s"), ("0,a,1,-inf", "duration_s"),
    ("0,a,1,1e999", "duration_s"), ("0,a,1,1_000", "duration_s"), ("0,a,1", "duration_s"),
    ("0,a", "duration_s"),
])  # fmt: skip
def test_a_value_that_cannot_be_is_named_by_line_and_column(ask, row, column):
    status, out, err = ask("\n".join([HEAD, *ROWS, row, ROWS[0]]))
    assert (status, out) == (2, "")
    error = json.loads(err)["error"]
    assert error["code"] == "twin.bad-job"
    assert (error["values"]["line"], error["values"]["column"]) == (4, column)


@pytest.mark.parametrize(("content", "code", "told"), [
    ("", "twin.empty", {}),
    (HEAD + "\n", "twin.empty", {}),
    ("arrival_s,tenant,gpus\n0,a,1", "twin.job-columns", {"columns": "duration_s"}),
    ("timestamp,cluster\n", "twin.job-columns", {"columns": "duration, num_gpus"}),
    ("\x00\x01;;\n", "twin.job-columns", {}),
    (f"{HEAD}\n0,a,1,60,7\n", "twin.long-row", {"line": 2, "columns": 4}),
    (f"{HEAD}\n0,{'a' * LINE_CHARACTERS_MAX},1,60\n", "twin.long-line", {"line": 2}),
    (f"{HEAD}\n0,a,9,60\n", "twin.no-jobs", {}),
    (b"\xff\xfe\x00a", "twin.unreadable", {}),
    (gzip.compress(PLAIN, mtime=0)[:-9], "twin.unreadable", {}),
    (gzip.compress(PLAIN, mtime=0)[:12] + b"\xff" * 40, "twin.unreadable", {}),
])  # fmt: skip
def test_a_list_that_cannot_be_read_is_refused_with_what_is_wrong(ask, content, code, told):
    status, out, err = ask(content)
    assert (status, out) == (2, "")
    error = json.loads(err)["error"]
    assert error["code"] == code
    assert {key: error["values"][key] for key in told} == told


def test_a_fault_is_told_to_people_in_one_line_with_its_place(tmp_path, capsys):
    path = tmp_path / "jobs.csv"
    path.write_text(f"{HEAD}\n0,a,one,60\n")
    assert main(["twin", "queue", "--jobs", str(path), "--gpus", "2"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert re.search(r"jobs\.csv:2: gpus can't be one", said[0])
    assert len(said) == 2


def test_jobs_and_projects_are_bounded(ask, monkeypatch):
    monkeypatch.setattr(lists, "JOBS_MAX", 2)
    error = json.loads(ask("\n".join([HEAD, *ROWS, *ROWS]))[2])["error"]
    assert (error["code"], error["values"]["line"]) == ("twin.too-many-jobs", 4)
    monkeypatch.setattr(lists, "PROJECTS_MAX", 1)
    error = json.loads(ask("\n".join([HEAD, *ROWS]))[2])["error"]
    assert (error["code"], error["values"]["line"]) == ("twin.too-many-projects", 3)


def test_a_drawing_shows_a_line_and_a_dot_for_each_policy(ask, right, tmp_path):
    file = tmp_path / "out.svg"
    status, out, _ = ask(PLAIN, "--plot", str(file))
    assert (status, out) == (0, right)
    drawing = file.read_text()
    assert drawing.startswith("<svg")
    assert (drawing.count("<polyline"), drawing.count("<circle")) == (6, 6)
    assert ask(PLAIN, "--plot", "/absent/x.svg")[0] == 2


def test_a_drawing_puts_what_waits_less_to_the_left_and_what_is_better_lower(ask, tmp_path):
    long = "\n".join([HEAD, "0,a,2,360000", *(f"{n},b,1,600" for n in range(1, 40))])
    assert ask(long, "--policy", "fifo,srtf", "--plot", str(tmp_path / "out.svg"))[0] == 0
    drawing = (tmp_path / "out.svg").read_text()
    fifo, srtf = re.findall(r'points="([^"]*)"', drawing)
    heights = [[float(point.split(",")[1]) for point in line.split()] for line in (fifo, srtf)]
    assert sum(heights[1]) < sum(heights[0])  # more of the jobs have waited no longer
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawing)
    assert float(dots[1][0]) < float(dots[0][0])
    assert float(dots[1][1]) > float(dots[0][1])


def test_a_drawing_that_cannot_be_written_is_refused_before_the_replay(ask, tmp_path, monkeypatch):
    def never(*_args: object) -> None:
        raise AssertionError("it was replayed")

    monkeypatch.setattr("madang.twin.waits.played", never)
    for place in (tmp_path / "absent/x.svg", tmp_path):
        assert ask(PLAIN, "--plot", str(place))[0] == 2
    assert sorted(tmp_path.iterdir()) == [tmp_path / "jobs.csv"]


def test_what_was_drawn_before_stays_where_the_list_is_refused(ask, tmp_path):
    file = tmp_path / "out.svg"
    file.write_text("before")
    assert ask("no,list\n", "--plot", str(file))[0] == 2
    assert file.read_text() == "before"
    assert ask("no,list\n", "--plot", str(tmp_path / "new.svg"))[0] == 2
    assert not (tmp_path / "new.svg").exists()


@pytest.mark.parametrize(("language", "head"), [("en", "waited at most"), ("ko", "작업의 비율")])
def test_a_drawing_is_well_formed_and_has_its_headings_axes_and_policies_named(
    ask, tmp_path, monkeypatch, language, head
):
    monkeypatch.setenv("MADANG_LANG", language)
    file = tmp_path / "out.svg"
    assert ask(PLAIN, "--policy", "madang,fifo", "--plot", str(file))[0] == 0
    drawing = ElementTree.fromstring(file.read_text(encoding="utf-8"))
    named = [each.text or "" for each in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert any(head in text for text in named)
    for text, count in (("0 %", 1), ("100 %", 1), ("1 h", 1), ("madang", 2), ("fifo", 2)):
        assert named.count(text) >= count, text
    width, height = (float(each) for each in drawing.attrib["viewBox"].split()[2:])
    for each in drawing.iter("{http://www.w3.org/2000/svg}text"):
        assert 0 <= float(each.attrib["x"]) <= width
        assert 0 <= float(each.attrib["y"]) <= height
