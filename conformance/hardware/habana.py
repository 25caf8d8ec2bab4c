"""Which Gaudi devices this server has, and why they cannot be used: what ``hl-smi`` and /dev tell."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import msgspec

from conformance.errors import CannotRun
from conformance.hardware.hl_smi import (
    QUERY,
    SPOKEN,
    Accelerators,
    Details,
    Device,
    Process,
    kind_of,
    parse_details,
    parse_query,
    parse_summary,
)

__all__ = ["SPOKEN", "Accelerators", "Device", "Process", "busy", "detect_accelerators", "device_nodes", "require_free"]

HABANA_VENDOR = "0x1da3"  # of PCI; other accelerators, as an Intel NPU, have nodes below /dev/accel too
TIME_LIMIT_S = 10.0
NOTHING = "no hl-smi and no /dev/hl* or /dev/accel/accel*"

# An idle Gaudi has 512 MiB in use and an idle Gaudi2 768 MiB, in every recording; what computes takes more. The
# vendor's hl_qual looks at memory above idle, too, before it tests a device, and at its operational status.
IDLE_BYTES = 2**30

NUMBERS = ("module_id", "memory_used_bytes", "memory_total_bytes", "utilization_percent")


def device_nodes(dev: Path = Path("/dev"), sys: Path = Path("/sys")) -> tuple[Path, ...]:
    """Return the nodes of Gaudi devices: /dev/hl0 of older drivers, /dev/accel/accel0 of newer ones."""
    older = [path for path in dev.glob("hl*") if re.fullmatch(r"hl\d+", path.name)]
    newer = [path for path in dev.glob("accel/accel*") if re.fullmatch(r"accel\d+", path.name)]
    nodes = [*older, *(path for path in newer if _is_habana(sys / "class/accel" / path.name))]
    return tuple(sorted(nodes, key=lambda path: (path.parent, int(re.sub(r"\D", "", path.name)))))


def _is_habana(entry: Path) -> bool:
    try:
        return (entry / "device/vendor").read_text().strip() == HABANA_VENDOR
    except OSError:
        return True


def detect_accelerators(
    dev: Path = Path("/dev"),
    sys: Path = Path("/sys"),
    program: str = "hl-smi",
    time_limit_s: float = TIME_LIMIT_S,
) -> Accelerators | None:
    """Return the HPUs of this server; None where there is no trace of one, and then nothing is started.

    Raises CannotRun, with what to do, for devices without hl-smi, hl-smi without devices, and an hl-smi that hangs,
    fails or prints something else. Each of its three calls may take ``time_limit_s``. The table that it prints without
    options is needed; ``-Q`` and ``-L`` add modules, status and firmware where a version can tell them.
    """
    nodes, found = device_nodes(dev, sys), shutil.which(program)
    if found is None and not nodes:
        return None
    if found is None:
        raise CannotRun(
            f"hl-smi is not on PATH, so nothing tells which devices {_named(nodes)} are.",
            "Install habanalabs-firmware-tools, which has hl-smi, or add its folder to PATH.",
        )
    if not nodes:
        raise CannotRun(
            "hl-smi is here, but no Gaudi device: neither /dev/hl* nor /dev/accel/accel*.",
            "Load the driver with `modprobe habanalabs`; start a container with --runtime=habana.",
        )
    summary = parse_summary(_said(found, time_limit_s))
    queried = _queried(_said(found, time_limit_s, "-Q", ",".join(QUERY), "-f", "csv", optional=True))
    details = parse_details(_said(found, time_limit_s, "-L", optional=True))
    devices = tuple(_joined(device, queried.get(device.bus_id), details) for device in summary.devices)
    firmware = sorted({details[device.bus_id].firmware for device in devices if device.bus_id in details} - {""})
    return Accelerators(
        kind=" and ".join(sorted({kind_of(device.name) for device in devices})),
        devices=devices,
        driver=summary.driver,
        firmware=" and ".join(firmware),
        synapse=summary.synapse,
    )


def _named(nodes: tuple[Path, ...]) -> str:
    return str(nodes[0]) if len(nodes) == 1 else f"{nodes[0]} to {nodes[-1]}"


def _queried(text: str) -> dict[str, Device]:
    """Return the devices of a query by bus id; none where a version has not all columns, and says so in its own way."""
    try:
        return {device.bus_id: device for device in parse_query(text)}
    except CannotRun:
        return {}


def _joined(device: Device, queried: Device | None, details: dict[str, Details]) -> Device:
    """Return a device of the table with what the other two calls tell of it, and more exactly."""
    more = details.get(device.bus_id, Details(None, "", ""))
    device = msgspec.structs.replace(device, module_id=more.module_id, status=more.status)
    told = {name: value for name in NUMBERS if (value := getattr(queried, name, None)) is not None}
    return msgspec.structs.replace(device, **told)


def _said(program: str, time_limit_s: float, *options: str, optional: bool = False) -> str:
    """Return what hl-smi prints; nothing where it fails and that is ``optional``, as for what a version cannot tell.

    It runs in a session of its own, so that all of it can be ended; a call that waits for a broken driver cannot be.
    """
    command = " ".join(("hl-smi", *options))
    try:
        process = subprocess.Popen(
            [program, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError as error:
        raise CannotRun(f"`{command}` cannot be run: {error}.", f"Check {program}.") from None
    try:
        out, err = process.communicate(timeout=time_limit_s)
    except subprocess.TimeoutExpired:
        _end(process)
        stuck = f", and process {process.pid} cannot be ended" if process.poll() is None else ""
        raise CannotRun(
            f"`{command}` did not answer within {time_limit_s:g} s{stuck}.",
            "See `dmesg | grep habanalabs`; a device that hangs needs `hl-smi -r -i BUS_ID`, or a restart.",
        ) from None
    except BaseException:
        _end(process)
        raise
    if process.returncode == 0:
        return out
    if optional:
        return ""
    told = next(filter(None, map(str.strip, (err + "\n" + out).splitlines())), "nothing")
    raise CannotRun(
        f"`{command}` ended with {process.returncode} and said: {told.rstrip('.')}.",
        "Run it by hand, and see `dmesg | grep habanalabs`: the driver may not be loaded.",
    )


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=2)


def busy(device: Device) -> str:
    """Return in one sentence who uses a device, "" when nobody does: a process, or more memory than an idle one has."""
    used = device.memory_used_bytes or 0
    module = "" if device.module_id is None else f" (module {device.module_id})"
    users = ", ".join(f"process {process.pid} ({process.name})" for process in device.processes)
    if not users and used <= IDLE_BYTES:
        return ""
    hidden = "a process that hl-smi does not show, as of another user or container,"
    return (
        f"HPU {device.index}{module} is busy: {users or hidden} uses it; {used // 2**20} MiB of its memory are taken."
    )


def require_free(accelerators: Accelerators, count: int | None = None) -> None:
    """Raise CannotRun for the first of the HPUs that a launch of ``count`` ranks gets, all by default, that is busy.

    Ranks get the operational devices in the order of their modules.
    """
    for device in sorted(accelerators.up, key=lambda device: device.place)[:count]:
        if busy(device):
            raise CannotRun(
                busy(device), "Wait for it or end it; `sudo hl-smi`, on the host itself, shows all processes."
            )
