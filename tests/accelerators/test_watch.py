"""What watches a node's accelerators: the kernel's log, the makers' tools, what is told of both.

NVIDIA's answer in h100.xml and its lines of the log were recorded on an H100 80GB with driver
580.159.04; who it was is made up, and of its clocks one is left. The answers below are made up, for
what no device showed.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from madang.accelerators.kernel_log import KernelLog, Logged, parse
from madang.accelerators.tools import Told, Tool, furiosa, nvidia, rebellions
from madang.accelerators.watch import BUSY_S, HOT_S, LIMIT_S, Asked, Sentry
from madang.planning.health.xids import XIDS
from madang.symptoms import HUNG, Symptoms, Watch, busy, read, written

NVIDIA = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
  <gpu id="00000000:3B:00.0">
    <serial>1652922001234</serial><uuid>GPU-8d2f</uuid>
    <ecc_errors><volatile><sram_uncorrectable_parity>1</sram_uncorrectable_parity>
      <dram_uncorrectable>2</dram_uncorrectable></volatile></ecc_errors>
    <remapped_rows><remapped_row_pending>Yes</remapped_row_pending>
      <remapped_row_failure>No</remapped_row_failure></remapped_rows>
    <temperature><gpu_temp>91 C</gpu_temp>
      <gpu_temp_slow_threshold>90 C</gpu_temp_slow_threshold></temperature>
    <clocks_event_reasons><clocks_event_reason_hw_thermal_slowdown>Active
      </clocks_event_reason_hw_thermal_slowdown></clocks_event_reasons>
    <gpu_recovery_action>Drain and Reset</gpu_recovery_action>
  </gpu>
  <gpu id="00000000:5E:00.0">
    <serial>N/A</serial><uuid>GPU-77aa</uuid>
    <ecc_errors><volatile><dram_uncorrectable>N/A</dram_uncorrectable></volatile></ecc_errors>
    <gpu_recovery_action>None</gpu_recovery_action>
  </gpu>
</nvidia_smi_log>"""
H100 = Path(__file__).with_name("h100.xml").read_text()
UUID = "GPU-11111111-2222-3333-4444-555555555555"
FAULT = (
    "NVRM: Xid (PCI:0000:00:06): 31, pid=1089, name=python, channel 0x0000000a, intr 00000000. "
    "MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_6 faulted @ 0x0_00001000. Fault is of type "
    "FAULT_PDE ACCESS_TYPE_VIRT_WRITE"
)
LOGGED = (
    "4,598,145735940,-;NVRM: GPU at PCI:0000:00:06: GPU-11111111-2222-3333-4444-555555555555",
    "4,599,145735957,-;NVRM: GPU Board Serial Number: 1650000000001",
    f"4,600,145735960,-;{FAULT}",
    "4,601,160222620,-;NVRM: Xid (PCI:0000:00:06): 43, pid=1124, name=python, channel 0x0000000a",
)
"""What the log had of a program that wrote where nothing is, and of one that asserted."""
REBELLIONS = """
+-----+-----------+---------+---------------+------+---------+------+---------------------+-------+
| NPU |    Name   | Device  |   PCI BUS ID  | Temp |  Power  | Perf |  Memory(used/total) |  Util |
+-----+-----------+---------+---------------+------+---------+------+---------------------+-------+
| 0   | RBLN-CA25 | rbln0   |  0000:51:00.0 |  98C |  43.9W  | P10  |   2.4GB / 15.7GiB   |  98.7 |
| 1   | RBLN-CA25 | rbln1   |  0000:d8:00.0 |  25C |   6.1W  | P12  |    0.0B / 15.7GiB   |   0.0 |
+-----+-----------+---------+---------------+------+---------+------+---------------------+-------+
| NPU |   Process |   PID   |
| 0   |   python  |   4711  |
"""
FURIOSA = """
+------+--------+---------------------+---------+-------+--------------+
| Arch | Device | Firmware            | Temp.   | Power | PCI-BDF      |
+------+--------+---------------------+---------+-------+--------------+
| RNGD | npu0   | 1.7.0, 4dfed1852e7b | 40.98°C |  38 W | 0000:03:00.0 |
+------+--------+---------------------+---------+-------+--------------+
"""
RECORD = "4,1207,5023411000,-;NVRM: Xid (PCI:0000:3b:00): {}, pid='<unknown>', name=<unknown>, x\n"


@pytest.mark.parametrize("number", sorted(XIDS))
def test_every_xid_that_is_known_is_found_in_the_log(number: int) -> None:
    assert parse(RECORD.format(number)) == Logged("0000:3b:00", number, 5023411000)


@pytest.mark.parametrize(
    "record",
    [
        "", ";", "a;b", "4,1,2,-;usb 1-1: new device", "4,1,x,-;NVRM: Xid (PCI:0000:3b:00): 79, x",
        "4,1,2,-;user said: NVRM: Xid (PCI:0000:3b:00): 79, x",
        "4,1,2,-;NVRM: Xid (PCI:" + "0" * 9999 + "): 79",
        "4,1,2,-;NVRM: Xid (PCI:0000:3b:00): 99999",
    ],
)  # fmt: skip
def test_what_is_no_xid_is_none(record: str) -> None:
    """A program may write to the log too; its lines do not begin like the driver's."""
    assert parse(record) is None


def test_the_log_is_read_from_its_oldest_record_and_each_only_once(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_text("4,1,1,-;boot\n" + RECORD.format(79) + "\xff\n")
    log = KernelLog(str(path))
    assert [each.number for each in log.fresh()] == [79]
    with path.open("a") as file:
        file.write(RECORD.format(13))
    assert [each.number for each in log.fresh()] == [13]
    assert not log.unread


def test_a_log_that_may_not_be_read_is_said_and_is_no_end(tmp_path: Path) -> None:
    log = KernelLog(str(tmp_path / "none"))
    assert list(log.fresh()) == []
    assert "No such file" in log.unread
    assert "kernel-log" in Sentry([], log, "b").look(0.0).unread[0]


def test_nvidias_tool_is_read() -> None:
    ill, well = nvidia(NVIDIA)
    assert ill == Told(
        "GPU-8d2f", "0000:3b:00",
        Symptoms("1652922001234", uncorrectable=3, remap="pending", recovery="drain"), True,
    )  # fmt: skip
    assert well == Told("GPU-77aa", "0000:5e:00", Symptoms())


def test_an_h100_that_is_well_shows_nothing_but_who_it_is_and_that_nothing_runs() -> None:
    assert nvidia(H100) == [Told(UUID, "0000:00:06", Symptoms("1650000000001"), busy=0.0)]


@pytest.mark.parametrize(("well", "ill", "shown"), [
    ("clocks_event_reason_hw_thermal_slowdown>Not Active", "Active", {"is_hot": True}),
    ("dram_uncorrectable>0", "2", {"uncorrectable": 2}),
    ("sram_uncorrectable_secded>0", "1", {"uncorrectable": 1}),
    ("remapped_row_pending>No", "Yes", {"remap": "pending"}),
    ("remapped_row_failure>No", "Yes", {"remap": "failed"}),
    ("gpu_recovery_action>None", "Reset", {"recovery": "reset"}),
])  # fmt: skip
def test_what_an_h100_would_show_is_found_where_it_does(
    well: str, ill: str, shown: dict[str, object]
) -> None:
    """Each stands in the recorded answer, first for now and not for all of its life."""
    assert f"<{well}<" in H100
    (told,) = nvidia(H100.replace(f"<{well}<", f"<{well.partition('>')[0]}>{ill}<", 1))
    found = {"is_hot": told.is_hot} if "is_hot" in shown else {}
    assert found | {key: getattr(told.symptoms, key) for key in shown if key != "is_hot"} == shown


def test_a_programs_own_errors_are_logged_with_the_h100_that_it_had(tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(H100)
    (tmp_path / "kmsg").write_text("\n".join(LOGGED) + "\n")
    sentry = Sentry(
        [asked("cat", str(tmp_path / "answer"))], KernelLog(str(tmp_path / "kmsg")), "b"
    )
    watch = until_answered(sentry)
    sentry.close()
    assert watch.devices[UUID].xids == ((31, 145735960), (43, 160222620))


def test_rebellions_tool_is_read_up_to_its_first_table() -> None:
    hot, hung = rebellions(REBELLIONS)
    assert (hot.device, hot.is_hot, hot.symptoms) == ("rbln0", True, Symptoms())
    assert (hung.device, hung.is_hot, hung.symptoms) == ("rbln1", False, Symptoms(is_halted=True))


def test_how_busy_they_are_is_read_where_a_tool_tells_it() -> None:
    ((h100,), rbln) = nvidia(H100.replace(">0 %<", ">37 %<", 1)), rebellions(REBELLIONS)
    assert (h100.busy, [each.busy for each in rbln]) == (37.0, [98.7, 0.0])
    assert furiosa(FURIOSA)[0].busy is None
    odd = REBELLIONS.replace("98.7", "nan ").replace("  0.0 |\n", "-3.0 |\n")
    assert [each.busy for each in rebellions(odd)] == [None, None]


def test_furiosas_tool_is_read() -> None:
    assert furiosa(FURIOSA) == [Told("npu0", "0000:03:00", Symptoms())]


@pytest.mark.parametrize("tool", [nvidia, rebellions, furiosa])
@pytest.mark.parametrize(
    "answer", ["", "NVIDIA-SMI has failed", "<a>", "\0" * 9, "| | |", "<" * 99]
)
def test_what_is_no_answer_is_refused(tool: object, answer: str) -> None:
    with pytest.raises(ValueError, match=r"no (XML|table)"):
        tool(answer)  # type: ignore[operator]


def test_an_answer_that_would_grow_is_refused() -> None:
    with pytest.raises(ValueError, match="entities"):
        nvidia('<!DOCTYPE x [<!ENTITY a "aaaa">]><nvidia_smi_log>&a;</nvidia_smi_log>')


def silent(tmp_path: Path) -> KernelLog:
    (tmp_path / "kmsg").touch()
    return KernelLog(str(tmp_path / "kmsg"))


def asked(*argv: str) -> Asked:
    return Asked(Tool("nvidia", (argv,), nvidia), argv)


def until_answered(sentry: Sentry, now_s: float = 0.0) -> Watch:
    """Look until its tool has ended, however busy the machine is; no time passes for it."""
    deadline = time.monotonic() + 60
    while "nvidia" not in (watch := sentry.look(now_s)).tools:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return watch


def test_log_and_tool_meet_by_the_bus(tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(NVIDIA)
    (tmp_path / "kmsg").write_text(RECORD.format(79))
    sentry = Sentry(
        [asked("cat", str(tmp_path / "answer"))], KernelLog(str(tmp_path / "kmsg")), "b"
    )
    watch = until_answered(sentry)
    sentry.close()
    assert watch.devices["GPU-8d2f"].xids == ((79, 5023411000),)
    assert watch.devices["GPU-77aa"].xids == ()
    assert watch.tools == {"nvidia": ""}


def test_heat_counts_once_it_lasts(tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(NVIDIA)
    sentry = Sentry([asked("cat", str(tmp_path / "answer"))], silent(tmp_path), "b")
    assert not until_answered(sentry).devices["GPU-8d2f"].is_hot
    assert not sentry.look(HOT_S - 1).devices["GPU-8d2f"].is_hot
    assert sentry.look(HOT_S).devices["GPU-8d2f"].is_hot
    sentry.close()


def test_how_busy_they_were_is_told_by_the_minute_and_only_of_what_was_read(tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    answer.write_text(REBELLIONS)
    tool = Asked(Tool("rebellions", (("cat", str(answer)),), rebellions), ("cat", str(answer)))
    sentry, now_s = Sentry([tool], silent(tmp_path), "b"), 1000.0
    deadline = time.monotonic() + 60
    assert sentry.busy(now_s) == {}
    while tool.answers < 2:
        assert time.monotonic() < deadline
        if tool.answers == 1:
            answer.write_text(REBELLIONS.replace("98.7", "10.3"))
        now_s += 0.01
        sentry.look(now_s)
        assert sentry.busy(now_s) == {}, "the minute is not over"
        time.sleep(0.01)
    assert sentry.busy(now_s + BUSY_S) == {"rbln0": 55, "rbln1": 0}
    assert sentry.busy(now_s + 3 * BUSY_S) == {}, "nothing was read since"
    sentry.close()


def test_whatever_is_said_of_how_busy_they_are_is_read_within_bounds() -> None:
    said = {"a": 100, "b": 101, "c": -1, "d": "5", "e": True, "f": 1.5, "\x1b": 3}
    assert busy({"busy": said}) == {"a": 1.0, "": 0.03}
    assert busy(None) == busy({"busy": [1]}) == {}
    assert len(busy({"busy": {str(number): 1 for number in range(9999)}})) == 256


def test_a_tool_that_hangs_is_said_and_nobody_waits_for_it(tmp_path: Path) -> None:
    hanging = asked("sleep", "3600")
    sentry = Sentry([hanging], silent(tmp_path), "b")
    assert sentry.look(0.0).tools == {}
    assert sentry.look(LIMIT_S).tools == {"nvidia": HUNG}
    assert hanging.process is not None
    hanging.process.wait(60)
    sentry.look(LIMIT_S + 1)
    assert sentry.look(LIMIT_S + 1).tools == {"nvidia": HUNG}, "an end by our signal is no answer"
    assert sentry.look(LIMIT_S + 10).tools == {"nvidia": HUNG}
    assert hanging.process is not None, "it is asked again"
    sentry.close()


def test_a_tool_that_fails_or_is_gone_is_said(tmp_path: Path) -> None:
    failing = Sentry([asked("false")], silent(tmp_path), "b")
    assert until_answered(failing).tools == {"nvidia": "exit code 1"}
    gone = Sentry([asked(str(tmp_path / "none"))], silent(tmp_path), "b")
    assert gone.look(0.0).tools == {"nvidia": "No such file or directory"}


@pytest.mark.parametrize(
    "announced",
    [
        None, {}, {"watch": 1}, {"watch": {"devices": [1], "tools": 3, "unread": "x"}},
        {"watch": {"devices": {"a": {"xids": [[79], ["x", 1], [1, -1], [True, 2], 9]}}}},
        {"watch": {"devices": {"a": {"serial": "\x1b[2J", "uncorrectable": 1e99, "remap": []}}}},
        {"watch": {"devices": {str(i): {} for i in range(9999)}}},
    ],
)  # fmt: skip
def test_whatever_a_watch_says_is_read_within_bounds(announced: object) -> None:
    watch = read(announced)  # type: ignore[arg-type]
    if watch:
        assert len(watch.devices) <= 256
        assert all(each in (Symptoms(), None) for each in watch.devices.values())
        assert read(written(watch)) == watch
