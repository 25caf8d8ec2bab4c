"""Gaudi devices: what hl-smi printed on real servers, and a fake hl-smi for all ways in which it fails."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from launch_examples import xeon

from conformance.cases import Case
from conformance.cli import main
from conformance.commands.profiles import machine_facts, machine_lines
from conformance.errors import CannotRun, HardwareMismatch
from conformance.fixtures.device import Hpu, notes_of_device, require_device
from conformance.fixtures.options import Options
from conformance.fixtures.terminal import header
from conformance.hardware import detect as detection
from conformance.hardware.detect import detect, digest, identity, make_host, parse_lscpu
from conformance.hardware.habana import busy, detect_accelerators, device_nodes, require_free
from conformance.hardware.hl_smi import (
    QUERY,
    Accelerators,
    Details,
    Device,
    Process,
    kind_of,
    parse_details,
    parse_query,
    parse_summary,
)
from conformance.hardware.host import Fault, Host, accelerators_in_words
from conformance.hardware.match import (
    choose,
    differences,
    list_profiles,
    load_profile,
    planned_host,
    profile_directory,
    require,
    why_not,
)
from conformance.stacks import Stack

RECORDINGS = Path(__file__).parent / "recordings"
GAUDI = "hl-smi_gaudi_8xHL-205_1.4.1.txt"
GAUDI_BUSY = "hl-smi_gaudi_8xHL-205_1.6.0_two-busy-one-shown.txt"
GAUDI2 = "hl-smi_gaudi2_8xHL-225_1.12.1.txt"
GAUDI2_BUSY = "hl-smi_gaudi2_8xHL-225_1.16.0_one-busy.txt"
DETAILS = "hl-smi-L_gaudi2_HL-225_1.12.1_first-device.txt"
QUERIED = "hl-smi-Q_gaudi_8xHL-205_1.18.0_nounits.csv"
SHIPPED = profile_directory()
MIB = 2**20


def recorded(name: str) -> str:
    return (RECORDINGS / name).read_text()


def test_every_recording_of_hl_smi_is_tried() -> None:
    tried = {GAUDI, GAUDI_BUSY, GAUDI2, GAUDI2_BUSY, DETAILS, QUERIED}
    assert {path.name for path in RECORDINGS.glob("hl-smi*")} == tried


@pytest.mark.parametrize("name", [GAUDI, GAUDI_BUSY, GAUDI2, GAUDI2_BUSY])
def test_a_recorded_table_holds_what_its_name_says(name: str) -> None:
    kind, count, product, synapse = re.match(r"hl-smi_(\w+)_(\d)x(HL-\d+)_([\d.]+\d)", name).groups()  # type: ignore[union-attr]
    found = parse_summary(recorded(name))
    assert [device.index for device in found.devices] == list(range(int(count)))
    assert {(device.name, kind_of(device.name)) for device in found.devices} == {(product, kind)}
    assert found.synapse == synapse
    total = {"gaudi": 32768, "gaudi2": 98304}[kind]
    assert {device.memory_total_bytes for device in found.devices} == {total * MIB}
    assert len({device.bus_id for device in found.devices}) == int(count)


@pytest.mark.parametrize(
    ("name", "driver", "first"),
    [
        (GAUDI, "1.4.0-d8f95f4", ("0000:20:1d.0", 512 * MIB, 2)),
        (GAUDI_BUSY, "1.6.0-3c06a7c", ("0000:19:00.0", 32454 * MIB, 63)),
        (GAUDI2, "1.12.1-cb7a7bc", ("0000:43:00.0", 768 * MIB, 0)),
        (GAUDI2_BUSY, "1.16.0-94aac46", ("0000:b3:00.0", 768 * MIB, 0)),
    ],
)
def test_the_table_tells_driver_place_memory_and_use(name: str, driver: str, first: tuple[str, int, int]) -> None:
    found = parse_summary(recorded(name))
    device = found.devices[0]
    assert found.driver == driver
    assert (device.bus_id, device.memory_used_bytes, device.utilization_percent) == first


@pytest.mark.parametrize(
    ("name", "index", "process"),
    [
        pytest.param(GAUDI_BUSY, 1, Process(pid=2006754, name="python", memory_bytes=31742 * MIB), id="in-two-lines"),
        pytest.param(
            GAUDI2_BUSY, 6, Process(pid=618796, name="ray::ServeRepli", memory_bytes=26330 * MIB), id="without-last-bar"
        ),
    ],
)
def test_a_process_is_read_from_a_torn_row(name: str, index: int, process: Process) -> None:
    devices = parse_summary(recorded(name)).devices
    assert {device.index: device.processes for device in devices if device.processes} == {index: (process,)}


def test_a_device_may_have_several_processes_with_blanks_in_their_names() -> None:
    row = "|   3        N/A   N/A    N/A                                      N/A        |\n"
    rows = (
        "|   3        10    C      python train.py                          1024MiB    |\n"
        "|   3        11    C      worker                                   N/A        |\n"
    )
    device = parse_summary(recorded(GAUDI).replace(row, rows)).devices[3]
    assert [(one.pid, one.name) for one in device.processes] == [(10, "python train.py"), (11, "worker")]
    assert [one.memory_bytes for one in device.processes] == [1024 * MIB, None]


def test_newer_versions_name_a_second_driver_and_other_columns() -> None:
    text = recorded(GAUDI2).replace(
        "| Driver Version:                                     1.12.1-cb7a7bc          |\n",
        "| Driver Version:                                     1.19.1-6f47ddd          |\n"
        "| Nic Driver Version:                                 1.19.1-f071c23          |\n",
    )
    assert parse_summary(text.replace("           N/A |\n|-", "            0% |\n|-")).driver == "1.19.1-6f47ddd"


def test_what_a_table_does_not_tell_is_none() -> None:
    text = recorded(GAUDI).replace("   512Mib / 32768Mib |     2% ", "      N/A / N/A      |    N/A ")
    device = parse_summary(text).devices[0]
    assert (device.memory_used_bytes, device.memory_total_bytes, device.utilization_percent) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing"),
        ("\n  \n", "nothing"),
        ("Segmentation fault\n", "'Segmentation fault'"),
        ("\x00\x7f\ufffd" * 80, repr(("\x00\x7f\ufffd" * 80)[:120])),
        (recorded(GAUDI).partition(" 32768Mib")[0], "'| N/A   35C   N/A   102W / 350W |   512Mib /'"),
        (recorded(GAUDI)[:1500], None),
        ("| HL-SMI Version: hl-1.6.1-fw-1 |\n| Compute Processes: |\n", "'| HL-SMI Version: hl-1.6.1-fw-1 |'"),
    ],
    ids=["empty", "blank", "words", "bytes", "cut-in-a-device", "cut-between-devices", "no-device"],
)
def test_what_is_no_table_is_told_with_its_first_line(text: str, said: str | None) -> None:
    with pytest.raises(CannotRun) as caught:
        parse_summary(text)
    said = said or repr(text.splitlines()[0])
    assert caught.value.message == f"`hl-smi` printed {said} where its devices are expected."


HEADER = "index, module_id, bus_id, name, memory.used [MiB], memory.total [MiB], utilization.aip [%]\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("0, 6, 0000:B3:00.0, HL-225, 768 MiB, 98304 MiB, 3 %\n", id="noheader"),
        pytest.param(f"{HEADER}0, 6, 0000:b3:00.0, HL-225, 768 MiB, 98304 MiB, 3 %\n", id="header"),
        pytest.param(f"{HEADER}0, 6, 0000:b3:00.0, HL-225, 768, 98304, 3\n", id="nounits"),
        pytest.param(f"{','.join(QUERY)}\n0,6,0000:b3:00.0,HL-225,768Mib,98304Mib,3%\n", id="older-units"),
        pytest.param("\n0, 6, 0000:b3:00.0, HL-225, 768 MiB, 98304 MiB, 3 %\n\n", id="blank-lines"),
    ],
)
def test_a_query_is_read_with_header_and_units_or_without(text: str) -> None:
    assert parse_query(text) == (
        Device(
            index=0, bus_id="0000:b3:00.0", name="HL-225", module_id=6, memory_used_bytes=768 * MIB,
            memory_total_bytes=98304 * MIB, utilization_percent=3,
        ),
    )  # fmt: skip


def test_a_recorded_query_without_an_index_counts_its_rows() -> None:
    columns = ("name", "uuid", "power.draw", "temperature.aip", "utilization.aip", "memory.used", "memory.total")
    devices = parse_query(recorded(QUERIED), columns)
    assert [device.index for device in devices] == list(range(8))
    assert {(device.name, device.memory_used_bytes, device.memory_total_bytes) for device in devices} == {
        ("HL-205", 512 * MIB, 32768 * MIB)
    }
    assert [device.utilization_percent for device in devices] == [15, 15, 12, 13, 15, 14, 14, 14]


def test_what_a_query_does_not_tell_is_none() -> None:
    (device,) = parse_query("2, N/A, 0000:b3:00.0, HL-225, , N/A, N/A\n")
    assert (device.index, device.module_id, device.memory_used_bytes, device.utilization_percent) == (
        2,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    "row",
    [
        "0, 6, 0000:b3:00.0, HL-225, 768 MiB",
        "zero, 6, 0000:b3:00.0, HL-225, 768 MiB, 98304 MiB, 3 %",
        ", 6, 0000:b3:00.0, HL-225, 768 MiB, 98304 MiB, 3 %",
        "0, 6, 0000:b3:00.0, HL-225, lots, 98304 MiB, 3 %",
        "0, 6, 0000:b3:00.0, HL-225, 768 GiB, 98304 MiB, 3 %",
        "0, -1, 0000:b3:00.0, HL-225, 768 MiB, 98304 MiB, 3 %",
        "Query failed",
    ],
    ids=["too-short", "index-no-number", "no-index", "memory-no-number", "other-unit", "module-no-number", "words"],
)
def test_a_row_that_is_none_of_a_query_is_told(row: str) -> None:
    with pytest.raises(CannotRun, match=r"^`hl-smi -Q index,module_id,.* -f csv` printed '.*' where its devices are "):
        parse_query(f"{HEADER}{row}\n")


def test_details_tell_module_status_and_firmware() -> None:
    expected = Details(module_id=0, status="Operational", firmware="1.12.1-fw-46.0.5-sec-6")
    assert parse_details(recorded(DETAILS)) == {"0000:43:00.0": expected}


def test_details_of_several_devices_are_kept_apart() -> None:
    part = recorded(DETAILS).partition("[0]")[2]
    second = part.replace("0000:43", "0000:44").replace("ID                       : 0", "ID                       : 5")
    found = parse_details(f"[0]{part}[1]{second.replace(': Operational', ': Malfunction')}")
    assert {bus_id: (one.module_id, one.status) for bus_id, one in found.items()} == {
        "0000:43:00.0": (0, "Operational"),
        "0000:44:00.0": (5, "Malfunction"),
    }


@pytest.mark.parametrize("text", ["", "no such option\n", "[0] AIP (hl0)\n"])
def test_details_that_are_not_told_are_absent(text: str) -> None:
    assert parse_details(text) == {}


# A fake hl-smi: a script that prints a file for each way in which it is called.


def fake_hl_smi(place: Path, table: str = GAUDI2, query: str = "", details: str = "", script: str = "") -> str:
    """Write a fake hl-smi that prints these texts, or is ``script``; return its path."""
    folder = place / "bin"
    folder.mkdir()
    for name, text in (("table", table and recorded(table)), ("query", query), ("details", details)):
        (folder / name).write_text(text)
    printing = (
        'case "$1" in\n'
        f'-Q) test "$2 $3 $4" = "{",".join(QUERY)} -f csv" && cat {folder}/query ;;\n'
        f"-L) cat {folder}/details ;;\n"
        f'"") cat {folder}/table ;;\n'
        "esac\n"
    )
    program = folder / "hl-smi"
    program.write_text(f"#!/bin/sh\n{script or printing}")
    program.chmod(0o755)
    return str(program)


def fake_dev(place: Path, *names: str) -> Path:
    """Make a folder that stands for /dev; plain files stand for its nodes."""
    for name in names:
        path = place / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (place / "dev").mkdir(exist_ok=True)
    return place / "dev"


NODES = [f"hl{n}" for n in range(8)]
ORDER = (0, 1, 2, 3, 6, 7, 4, 5)  # modules by index, made up: only that the two differ is known


def rows(devices: Sequence[Device], modules: Sequence[int]) -> str:
    """Return what -Q prints of devices."""
    return HEADER + "".join(
        f"{one.index}, {module}, {one.bus_id}, {one.name}, {(one.memory_used_bytes or 0) // MIB} MiB, "
        f"{(one.memory_total_bytes or 0) // MIB} MiB, {one.utilization_percent} %\n"
        for one, module in zip(devices, modules, strict=True)
    )


def detected(place: Path, names: Sequence[str] = NODES, time_limit_s: float = 10.0, **fake: str) -> Accelerators | None:
    program = fake_hl_smi(place, **fake)
    return detect_accelerators(fake_dev(place, *names), place / "sys", program, time_limit_s)


def test_a_server_is_detected_from_all_three_calls(tmp_path: Path) -> None:
    devices = parse_summary(recorded(GAUDI2)).devices
    found = detected(tmp_path, query=rows(devices, ORDER), details=recorded(DETAILS))
    assert found is not None
    assert (found.kind, found.name, len(found.devices)) == ("gaudi2", "HL-225", 8)
    assert (found.driver, found.firmware, found.synapse) == ("1.12.1-cb7a7bc", "1.12.1-fw-46.0.5-sec-6", "1.12.1")
    assert [device.module_id for device in found.devices] == list(ORDER)
    assert [device.status for device in found.devices] == ["Operational", *[""] * 7]


def test_numbers_of_the_query_win_over_those_of_the_table(tmp_path: Path) -> None:
    devices = parse_summary(recorded(GAUDI2)).devices
    query = rows([msgspec.structs.replace(devices[0], memory_used_bytes=769 * MIB)], [4])
    found = detected(tmp_path, query=query)
    assert found is not None
    assert [device.memory_used_bytes for device in found.devices] == [769 * MIB, *[768 * MIB] * 7]
    assert [device.module_id for device in found.devices] == [4, *[None] * 7]


@pytest.mark.parametrize("refusing", ["echo 'unknown option' >&2\nexit 2\n", "echo 'Invalid query'\n", ":\n"])
def test_what_a_version_of_hl_smi_cannot_tell_stays_open(tmp_path: Path, refusing: str) -> None:
    table = tmp_path / "table"
    table.write_text(recorded(GAUDI))
    found = detected(tmp_path, script=f"test $# = 0 && exec cat {table}\n{refusing}")
    assert found is not None
    assert (found.kind, found.driver, found.firmware, found.synapse) == ("gaudi", "1.4.0-d8f95f4", "", "1.4.1")
    assert {device.module_id for device in found.devices} == {None}


def test_without_a_trace_of_a_device_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *args, **options: pytest.fail("started a process"))
    assert detect_accelerators(fake_dev(tmp_path), tmp_path / "sys", str(tmp_path / "hl-smi")) is None


@pytest.mark.parametrize(
    ("names", "vendors", "found"),
    [
        pytest.param(
            ["hl0", "hl10", "hl2", "hl_controlD0", "hlx", "null"], {}, ["hl0", "hl2", "hl10"], id="older-driver"
        ),
        pytest.param(
            ["accel/accel0", "accel/accel_controlD0"], {"accel0": "0x1da3"}, ["accel/accel0"], id="newer-driver"
        ),
        pytest.param(["accel/accel0"], {"accel0": "0x8086"}, [], id="npu-of-another-vendor"),
        pytest.param(["accel/accel0"], {}, ["accel/accel0"], id="vendor-not-told"),
        pytest.param([], {}, [], id="none"),
    ],
)
def test_nodes_are_those_of_gaudi_devices(
    tmp_path: Path, names: list[str], vendors: dict[str, str], found: list[str]
) -> None:
    for name, vendor in vendors.items():
        folder = tmp_path / "sys/class/accel" / name / "device"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
    dev = fake_dev(tmp_path, *names)
    assert [str(path.relative_to(dev)) for path in device_nodes(dev, tmp_path / "sys")] == found


def refused(detecting: Callable[[], Any]) -> CannotRun:
    with pytest.raises(CannotRun) as caught:
        detecting()
    return caught.value


def test_devices_without_hl_smi_are_told(tmp_path: Path) -> None:
    dev = fake_dev(tmp_path, *NODES)
    error = refused(lambda: detect_accelerators(dev, tmp_path / "sys", str(tmp_path / "hl-smi")))
    assert error.message == f"hl-smi is not on PATH, so nothing tells which devices {dev}/hl0 to {dev}/hl7 are."
    assert error.hint.startswith("Install habanalabs-firmware-tools, which has hl-smi")


def test_hl_smi_without_devices_is_told_and_not_started(tmp_path: Path) -> None:
    error = refused(lambda: detected(tmp_path, names=[], script=f"touch {tmp_path}/started\n"))
    assert error.message == "hl-smi is here, but no Gaudi device: neither /dev/hl* nor /dev/accel/accel*."
    assert "modprobe habanalabs" in error.hint
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("ignoring", ["", "trap '' TERM INT HUP\n"], ids=["", "that-ignores-signals"])
def test_an_hl_smi_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, ignoring: str) -> None:
    script = f"{ignoring}sleep 60 &\necho $! $$ >{tmp_path}/pids\nwait\nsleep 60\n"
    began = time.monotonic()
    error = refused(lambda: detected(tmp_path, script=script, time_limit_s=1.0))
    assert time.monotonic() - began < 5
    assert error.message == "`hl-smi` did not answer within 1 s."
    assert error.hint.startswith("See `dmesg | grep habanalabs`")
    started = [Path("/proc") / pid for pid in (tmp_path / "pids").read_text().split()]
    assert len(started) == 2
    for _ in range(100):  # a process that was killed is there until its parent has taken note
        if not any(alive(path) for path in started):
            break
        time.sleep(0.02)
    assert [path for path in started if alive(path)] == []


def alive(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_hl_smi_that_hangs_at_its_second_call_is_told_with_its_words(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.write_text(recorded(GAUDI))
    script = f'test "$1" != -L || exec sleep 60\ntest -n "$1" || exec cat {table}\n'
    error = refused(lambda: detected(tmp_path, script=script, time_limit_s=1.0))
    assert error.message == "`hl-smi -L` did not answer within 1 s."


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'driver is not loaded.' >&2\nexit 3\n", "ended with 3 and said: driver is not loaded."),
        ("echo on stdout\nexit 1\n", "ended with 1 and said: on stdout."),
        ("exit 1\n", "ended with 1 and said: nothing."),
        ("kill -SEGV $$\n", "ended with -11 and said: nothing."),
        ("echo usage: hl-smi\n", "printed 'usage: hl-smi' where its devices are expected."),
        ("printf '\\377\\376'\n", "printed '\ufffd\ufffd' where its devices are expected."),
        ("", "printed nothing where its devices are expected."),
    ],
    ids=["status", "status-on-stdout", "status-alone", "signal", "words", "bytes", "nothing"],
)
def test_an_hl_smi_that_fails_is_told_in_its_words(tmp_path: Path, script: str, said: str) -> None:
    error = refused(lambda: detected(tmp_path, script=script or "exit 0\n"))
    assert error.message == f"`hl-smi` {said}"
    assert error.hint.startswith("Run it by hand")


def test_an_hl_smi_that_is_for_another_machine_is_told(tmp_path: Path) -> None:
    program = fake_hl_smi(tmp_path)
    Path(program).write_bytes(b"\x7fELF of another architecture")
    error = refused(lambda: detect_accelerators(fake_dev(tmp_path, "hl0"), tmp_path / "sys", program))
    assert re.fullmatch(r"`hl-smi` cannot be run: .*Exec format error.*\.", error.message)
    assert error.hint == f"Check {program}."


def test_hl_smi_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(fake_hl_smi(tmp_path)).parent
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    found = detect_accelerators(fake_dev(tmp_path, *NODES), tmp_path / "sys")
    assert found is not None and found.kind == "gaudi2"


# Who uses a device.


def accelerators(name: str, **changes: Any) -> Accelerators:
    found = parse_summary(recorded(name))
    kind = kind_of(found.devices[0].name)
    values = {"kind": kind, "devices": found.devices, "driver": found.driver, "synapse": found.synapse, **changes}
    return Accelerators(**values)


@pytest.mark.parametrize("name", [GAUDI, GAUDI2])
def test_an_idle_device_is_free(name: str) -> None:
    assert {busy(device) for device in accelerators(name).devices} == {""}
    assert require_free(accelerators(name)) is None


def test_a_busy_device_is_told_with_its_process() -> None:
    device = msgspec.structs.replace(accelerators(GAUDI2_BUSY).devices[6], module_id=2)
    assert busy(device) == (
        "HPU 6 (module 2) is busy: process 618796 (ray::ServeRepli) uses it; 27098 MiB of its memory are taken."
    )


def test_memory_above_idle_is_somebody_s_even_where_no_process_is_shown() -> None:
    told = [busy(device) for device in accelerators(GAUDI_BUSY).devices]
    assert told[0] == (
        "HPU 0 is busy: a process that hl-smi does not show, as of another user or container, uses it; "
        "32454 MiB of its memory are taken."
    )
    assert told[1] == "HPU 1 is busy: process 2006754 (python) uses it; 32254 MiB of its memory are taken."
    assert told[2:] == [""] * 6


@pytest.mark.parametrize(("used", "is_busy"), [(1024, False), (1025, True), (None, False)])
def test_more_than_a_gib_is_more_than_an_idle_device_has(used: int | None, is_busy: bool) -> None:
    device = Device(index=0, bus_id="", name="HL-205", memory_used_bytes=None if used is None else used * MIB)
    assert bool(busy(device)) == is_busy


def test_a_launch_needs_those_devices_only_that_its_ranks_get() -> None:
    found = accelerators(GAUDI2_BUSY)
    assert require_free(found, 6) is None
    for count in (7, 8, None):
        with pytest.raises(CannotRun, match=r"^HPU 6 is busy: process 618796 \(ray::ServeRepli\)") as caught:
            require_free(found, count)
        assert caught.value.hint.startswith("Wait for it or end it; `sudo hl-smi`")


def test_a_device_that_is_down_is_left_out_of_a_launch() -> None:
    found = accelerators(GAUDI2_BUSY)
    first, *others = found.devices
    down = msgspec.structs.replace(found, devices=(msgspec.structs.replace(first, status="Malfunction"), *others))
    assert require_free(down, 5) is None
    with pytest.raises(CannotRun, match=r"^HPU 6 is busy"):
        require_free(down, 6)


def test_an_hpu_that_is_in_use_keeps_its_cases_from_being_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.fixtures.device.detect_accelerators", lambda: accelerators(GAUDI2_BUSY))
    packages = {"habana-tensorflow": "1.6.1.92", "habana-horovod": "1.6.1.92"}
    stack = Stack(name="gaudi", python="python", python_version="3.10.13", packages=packages)
    session: Any = SimpleNamespace(stack=stack, options=Options(), hpu=Hpu(device_type="GAUDI2", devices=8))
    row = partial(Case, id="row", model="resnext101_32x4d", mode="training", precision="bf16", dataset="digits")
    made = partial(row, batch_size=4, source="here", device="hpu")
    assert require_device(session, made(world_size=6)) == ("Trained on GAUDI2, one of 8 HPUs here.",)
    with pytest.raises(CannotRun, match=r"^HPU 6 is busy: process 618796 \(ray::ServeRepli\) uses it;"):
        require_device(session, made(world_size=8))
    # Who came while it trained takes nothing from what was measured.
    assert notes_of_device(session, made(world_size=8)) == ("Trained on GAUDI2, one of 8 HPUs here.",)


def test_ranks_get_modules_and_not_indices() -> None:
    found = accelerators(GAUDI2_BUSY)
    devices = [msgspec.structs.replace(one, module_id=module) for one, module in zip(found.devices, ORDER, strict=True)]
    moved = msgspec.structs.replace(found, devices=tuple(devices))  # the busy one, HPU 6, is module 4
    assert require_free(moved, 4) is None
    with pytest.raises(CannotRun, match=r"^HPU 6 \(module 4\) is busy"):
        require_free(moved, 5)


# Which profile fits.


def server(name: str | None = GAUDI, **more: Any) -> Host:
    return msgspec.structs.replace(xeon(2, 28), accelerators=name and accelerators(name, **more))


def some(host: Host, *indices: int, modules: Sequence[int] = range(8)) -> Host:
    """Return a server of which hl-smi shows these devices only."""
    assert host.accelerators is not None
    devices = tuple(msgspec.structs.replace(host.accelerators.devices[n], module_id=modules[n]) for n in indices)
    return msgspec.structs.replace(host, accelerators=msgspec.structs.replace(host.accelerators, devices=devices))


@pytest.mark.parametrize(
    ("host", "name"),
    [
        pytest.param(server(GAUDI), "gaudi-8", id="8-gaudi"),
        pytest.param(server(GAUDI_BUSY), "gaudi-8", id="8-gaudi-in-use"),
        pytest.param(some(server(GAUDI), 3), "gaudi-1", id="1-gaudi"),
        pytest.param(some(server(GAUDI), 0, 1, 2, 4, 5, 6, 7), "gaudi-1", id="7-gaudi"),
        pytest.param(server(GAUDI2), "gaudi2-8", id="8-gaudi2"),
        pytest.param(some(server(GAUDI2), 7), "gaudi2-1", id="1-gaudi2"),
        pytest.param(server(GAUDI, kind="HL-325L"), "xeon-2s", id="8-of-another-kind"),
        pytest.param(server(None), "xeon-2s", id="no-accelerator"),
        pytest.param(
            msgspec.structs.replace(server(None), accelerators_fault=Fault("It hangs.", "Restart.")),
            "xeon-2s",
            id="fault",
        ),
        pytest.param(
            msgspec.structs.replace(
                xeon(8, 28), flags=("avx512_bf16", "avx512_vnni"), accelerators=accelerators(GAUDI)
            ),
            "gaudi-8",
            id="8-gaudi-in-an-8-socket-server",
        ),
        pytest.param(
            msgspec.structs.replace(server(GAUDI), allowed=tuple(range(4))), "gaudi-8", id="8-gaudi-and-4-cores"
        ),
    ],
)
def test_auto_takes_the_profile_of_the_accelerators(host: Host, name: str) -> None:
    assert choose("auto", host, SHIPPED).profile.name == name


@pytest.mark.parametrize(
    ("name", "host", "said"),
    [
        pytest.param("gaudi-8", server(None), "none: no hl-smi and no /dev/hl* or /dev/accel/accel*", id="none"),
        pytest.param(
            "gaudi-8",
            msgspec.structs.replace(server(None), accelerators_fault=Fault("`hl-smi` hangs.", "See.")),
            "none: `hl-smi` hangs",
            id="fault",
        ),
        pytest.param("gaudi-8", server(GAUDI2), "8 Gaudi2", id="gaudi2"),
        pytest.param("gaudi-8", server(GAUDI, kind="HL-325L"), "8 HL-325L", id="another-kind"),
        pytest.param(
            "gaudi-8", some(server(GAUDI), 0, 1, 2, 4, 5, 6, 7), "7: module 3 missing", id="one-missing"
        ),
        pytest.param(
            "gaudi-8", some(server(GAUDI), 0, 1, 2, modules=ORDER),
            "3: modules 3, 4, 5, 6, 7 missing",
            id="five-missing",
        ),
        pytest.param(
            "gaudi-64", some(server(GAUDI), 0, 1, 2, 3, 4, 5, 6), "7: module 7 missing", id="one-of-this-server"
        ),
    ],
)  # fmt: skip
def test_a_server_without_the_accelerators_is_told_what_it_has(name: str, host: Host, said: str) -> None:
    found = differences(load_profile(name, SHIPPED), host)
    assert found == (f"needs 8 Gaudi, found {said}",)


def test_no_module_is_named_where_modules_are_not_told() -> None:
    host = server(GAUDI)
    assert host.accelerators is not None
    seven = msgspec.structs.replace(host.accelerators, devices=host.accelerators.devices[:7])
    host = msgspec.structs.replace(host, accelerators=seven)
    assert differences(load_profile("gaudi-8", SHIPPED), host) == ("needs 8 Gaudi, found 7",)


def test_a_device_that_is_not_operational_does_not_count() -> None:
    host = server(GAUDI)
    assert host.accelerators is not None
    first, *others = host.accelerators.devices
    down = (msgspec.structs.replace(first, status="Malfunction", module_id=0), *others)
    host = msgspec.structs.replace(host, accelerators=msgspec.structs.replace(host.accelerators, devices=down))
    assert differences(load_profile("gaudi-8", SHIPPED), host) == ("needs 8 Gaudi, found 7: HPU 0 is 'Malfunction'",)
    assert differences(load_profile("gaudi-1", SHIPPED), host) == ()


def test_a_refused_server_is_told_how_to_mend_its_accelerators() -> None:
    host = msgspec.structs.replace(server(None), accelerators_fault=Fault("It hangs.", "Restart it."))
    with pytest.raises(HardwareMismatch) as caught:
        require(load_profile("gaudi-8", SHIPPED), host, "Ask another.")
    assert caught.value.message == "This machine is not 'gaudi-8': needs 8 Gaudi, found none: It hangs."
    assert caught.value.hint == "Restart it. Ask another."
    with pytest.raises(HardwareMismatch) as caught:
        require(load_profile("xeon-8s", SHIPPED), host, "Ask another.")
    assert caught.value.hint == "Ask another."


def test_a_profile_of_several_servers_is_taken_by_its_name_only() -> None:
    host, profile = server(GAUDI), load_profile("gaudi-64", SHIPPED)
    assert differences(profile, host) == ()
    chosen = choose("auto", host, SHIPPED).profile
    assert why_not(profile, chosen, host) == "fits, but is for 8 servers: ask for it with --hw gaudi-64"
    assert choose("gaudi-64", host, SHIPPED) == (profile, ())


@pytest.mark.parametrize(
    ("name", "cores", "threads"),
    [("gaudi-1", 56, 112), ("gaudi-8", 56, 112), ("gaudi-64", 56, 112), ("gaudi2-1", 80, 160), ("gaudi2-8", 80, 160)],
)
def test_a_gaudi_server_is_planned_anywhere(name: str, cores: int, threads: int) -> None:
    profile = load_profile(name, SHIPPED)
    planned = planned_host(profile, xeon(1, 2))
    assert differences(profile, planned) == ()
    assert (len(planned.usable_cpus()), len(planned.cpus), planned.threads_per_core) == (cores, threads, 2)
    assert [cpu.id for cpu in planned.cpus if cpu.core == 0] == [0, cores]
    assert [len(planned.usable_cpus(socket)) for socket in (0, 1)] == [cores // 2, cores // 2]
    assert planned.accelerators is not None
    assert [one.module_id for one in planned.accelerators.devices] == list(range(profile.machine.accelerators or 0))


def test_a_gaudi_server_is_planned_as_it_is_where_it_fits() -> None:
    dl1 = msgspec.structs.replace(xeon(2, 24), accelerators=accelerators(GAUDI))
    assert planned_host(load_profile("gaudi-8", SHIPPED), dl1) is dl1
    assert len(planned_host(load_profile("gaudi2-8", SHIPPED), dl1).cpus) == 160


@pytest.mark.parametrize("name", ["lscpu_2x40_smt2_numa1_gaudi2-server.txt", "lscpu_2x40_smt2_numa2_gaudi2-server.txt"])
def test_the_plan_of_gaudi2_has_the_cpus_of_recorded_servers(name: str) -> None:
    real, planned = make_host(parse_lscpu(recorded(name))), planned_host(load_profile("gaudi2-8", SHIPPED), xeon(1, 2))
    assert (real.sockets, real.cores_per_socket, real.threads_per_core) == (2, 40, 2)
    assert [(cpu.id, cpu.core, cpu.socket) for cpu in real.cpus] == [(c.id, c.core, c.socket) for c in planned.cpus]


# What is told.


def test_the_identity_names_accelerators_and_what_drives_them() -> None:
    plain, host = identity(server(None)), identity(server(GAUDI, firmware="1.4.1-fw-35.0.2"))
    assert {name: value for name, value in host.items() if name not in plain} == {
        "accelerators": "8 x HL-205",
        "accelerators_driver": "1.4.0-d8f95f4",
        "accelerators_firmware": "1.4.1-fw-35.0.2",
        "synapseai": "1.4.1",
    }
    assert digest(server(GAUDI)) != digest(server(None))
    assert digest(server(GAUDI)) != digest(server(GAUDI, driver="1.6.1-1"))


def test_use_and_load_are_no_part_of_the_identity() -> None:
    host = server(GAUDI)
    assert host.accelerators is not None
    used = tuple(
        msgspec.structs.replace(device, memory_used_bytes=2**34, utilization_percent=99)
        for device in host.accelerators.devices
    )
    assert digest(msgspec.structs.replace(host, accelerators=accelerators(GAUDI, devices=used))) == digest(host)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (server(None), ""),
        (server(GAUDI), "8 x HL-205 (Gaudi), driver 1.4.0-d8f95f4, firmware not told, SynapseAI 1.4.1"),
        (
            server(GAUDI, kind="HL-325L"),
            "8 x HL-205, neither Gaudi nor Gaudi2, driver 1.4.0-d8f95f4, firmware not told, SynapseAI 1.4.1",
        ),
        (
            msgspec.structs.replace(server(None), accelerators_fault=Fault("It hangs.", "Restart.")),
            "not usable: It hangs.",
        ),
    ],
    ids=["none", "gaudi", "another-kind", "fault"],
)
def test_accelerators_are_told_in_words(host: Host, words: str) -> None:
    assert accelerators_in_words(host) == words


@pytest.mark.parametrize(
    ("host", "lines"),
    [
        (server(None), []),
        (
            server(GAUDI2, firmware="1.12.1-fw-46.0.5-sec-6"),
            [
                "accelerators: 8 x HL-225 (Gaudi2), driver 1.12.1-cb7a7bc, firmware 1.12.1-fw-46.0.5-sec-6, "
                "SynapseAI 1.12.1"
            ],
        ),
    ],
    ids=["none", "gaudi2"],
)
def test_the_header_of_a_session_names_accelerators_where_there_are_any(host: Host, lines: list[str]) -> None:
    session: Any = SimpleNamespace(
        host=host, chosen=choose("auto", host, SHIPPED), options=SimpleNamespace(plan=True, baseline=None)
    )
    assert [line for line in header(session) if line.startswith("accelerators")] == lines


def test_the_summary_of_a_machine_lists_devices_and_their_users() -> None:
    lines = dict(machine_lines(server(GAUDI_BUSY)))
    assert lines["accelerators"].startswith("8 x HL-205 (Gaudi), driver 1.6.0-3c06a7c,")
    assert lines["  HPU 1"] == ("HL-205, module not told, 0000:b3:00.0, 32254 of 32768 MiB in use, by python (2006754)")
    assert lines["  HPU 2"] == "HL-205, module not told, 0000:b4:00.0, 512 of 32768 MiB in use"


def test_the_summary_of_a_machine_says_why_it_has_no_accelerators() -> None:
    fault = msgspec.structs.replace(server(None), accelerators_fault=Fault("It hangs.", "Restart."))
    assert dict(machine_lines(server(None)))["accelerators"] == "none: no hl-smi and no /dev/hl* or /dev/accel/accel*"
    assert dict(machine_lines(fault))["accelerators"] == "not usable: It hangs. Hint: Restart."


def test_the_facts_hold_every_device() -> None:
    host, profiles = server(GAUDI2_BUSY), list_profiles(SHIPPED)
    facts = json.loads(json.dumps(machine_facts(host, choose("auto", host, SHIPPED), profiles)))
    assert (facts["profile"], facts["accelerators_fault"]) == ("gaudi2-8", None)
    assert facts["accelerators"]["kind"] == "gaudi2"
    assert facts["accelerators"]["devices"][6]["processes"] == [
        {"pid": 618796, "name": "ray::ServeRepli", "memory_bytes": 26330 * MIB}
    ]


def test_this_machine_is_detected_with_a_server_s_accelerators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, dev = fake_hl_smi(tmp_path, GAUDI), fake_dev(tmp_path, *NODES)
    monkeypatch.setattr(detection, "detect_accelerators", partial(detect_accelerators, dev, tmp_path / "sys", program))
    host = detect()
    assert host.accelerators is not None and host.accelerators_fault is None
    assert identity(host)["accelerators"] == "8 x HL-205"
    assert choose("auto", host, SHIPPED).profile.name == "gaudi-8"


@pytest.mark.skipif(bool(device_nodes()), reason="this machine has Gaudi devices")
def test_a_fake_hl_smi_without_devices_is_told_and_keeps_no_cpu_from_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = choose("auto", detect(), SHIPPED)
    folder = Path(fake_hl_smi(tmp_path)).parent
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    host = detect()
    assert host.accelerators is None and host.accelerators_fault is not None
    assert choose("auto", host, SHIPPED) == before
    assert main(["profiles", "check", "gaudi-8"]) == 4
    told = capsys.readouterr().err
    assert "needs 8 Gaudi, found none: hl-smi is here, but no Gaudi device: neither /dev/hl* nor /dev/accel" in told
    assert "hint: Load the driver with `modprobe habanalabs`" in told
