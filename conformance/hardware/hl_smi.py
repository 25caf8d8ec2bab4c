"""What the vendor's ``hl-smi`` prints of Gaudi devices, as values: pure functions of text.

Known from public recordings of versions 1.4.1 to 1.18.0 (tests/recordings) and from the vendor's page of the tool, for
the columns of ``-Q``. Memory is in MiB, however the unit is written; ``N/A`` and nothing mean not told.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence

import msgspec

from conformance.errors import CannotRun

QUERY = ("index", "module_id", "bus_id", "name", "memory.used", "memory.total", "utilization.aip")
KINDS = {"HL-205": "gaudi", "HL-225": "gaudi2"}
SPOKEN = {"gaudi": "Gaudi", "gaudi2": "Gaudi2"}

_BUS_ID = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]")
_DEVICE = re.compile(rf"\|\s*(\d+)\s+(\S+)\s.*?\|\s*({_BUS_ID.pattern})\b")
_USAGE = re.compile(r"\|.*\|\s*(\S+)\s*/\s*(\S+)\s*\|\s*(\S+)\s")
_PROCESS = re.compile(r"\|\s*(\d+)\s+(\d+)\s+[A-Za-z]\s+(.*?)(?:\s+(\d+\s*[KMG]i?[Bb]|N/A))?\s*\|?\s*")
_AMOUNT = re.compile(r"(\d+)\s*(?:MiB|Mib|MB)?")
_WHOLE = re.compile(r"(\d+)\s*%?")


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds a device; only root sees those of other users and containers."""

    pid: int
    name: str
    memory_bytes: int | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One HPU. ``index`` counts in the order of the driver, ``module_id`` is the place in the server: they differ.

    ``status`` is ``Operational`` where all is well, and "" where it is not told; so is None for a number.
    """

    index: int
    bus_id: str
    name: str
    module_id: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilization_percent: int | None = None
    status: str = ""
    processes: tuple[Process, ...] = ()

    @property
    def place(self) -> int:
        """The module where it is told, else the index."""
        return self.index if self.module_id is None else self.module_id


class Accelerators(msgspec.Struct, frozen=True, kw_only=True):
    """The HPUs of a server and their software; versions are "" where they are not told.

    ``kind`` is ``gaudi`` or ``gaudi2``, or the product's own name where it is neither. ``synapse`` is hl-smi's own
    version as in ``1.6.1``, which is that of the SynapseAI release that it came with.
    """

    kind: str
    devices: tuple[Device, ...]
    driver: str = ""
    firmware: str = ""
    synapse: str = ""

    @property
    def up(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.status in ("", "Operational"))

    @property
    def name(self) -> str:
        """The product's name, as in ``HL-205``."""
        return " and ".join(sorted({device.name for device in self.devices}))


class Summary(msgspec.Struct, frozen=True):
    """What ``hl-smi`` without options tells: the version of SynapseAI, that of the driver, and the devices."""

    synapse: str
    driver: str
    devices: tuple[Device, ...]


class Details(msgspec.Struct, frozen=True):
    """What ``hl-smi -L`` tells of one device."""

    module_id: int | None
    status: str
    firmware: str


def kind_of(name: str) -> str:
    """Return which Gaudi a product is; the letter of its board, as in HL-225H, makes no difference.

    >>> kind_of("HL-205"), kind_of("HL-225H"), kind_of("HL-325L")
    ('gaudi', 'gaudi2', 'HL-325L')
    """
    return KINDS.get(name.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), name)


def parse_summary(text: str) -> Summary:
    """Read the table that ``hl-smi`` prints; raises CannotRun for any other text, and for one that is cut off.

    A row of a process may lack its last bar, or go on in a line of its own where the name ends with a line feed.
    """
    upper, _, lower = text.partition("Compute Processes")
    synapse = re.search(r"^\|\s*HL-SMI Version:\s*hl-(\d+(?:\.\d+)+)", upper, re.MULTILINE)
    driver = re.search(r"^\|\s*Driver Version:\s*([^\s|]+)", upper, re.MULTILINE)
    devices = tuple(_devices(upper, dict(_processes(lower))))
    if synapse is None or not devices or not lower:
        raise not_understood("hl-smi", text)
    return Summary(synapse[1], driver[1] if driver else "", devices)


def _devices(text: str, processes: dict[int, tuple[Process, ...]]) -> Iterator[Device]:
    lines = text.splitlines()
    for number, line in enumerate(lines):
        found = _DEVICE.match(line)
        if found is None:
            continue
        following = "".join(lines[number + 1 : number + 2])
        usage = _USAGE.match(following)
        if usage is None:
            raise not_understood("hl-smi", following or line)
        yield Device(
            index=int(found[1]),
            bus_id=found[3].lower(),
            name=found[2],
            memory_used_bytes=_bytes(usage[1]),
            memory_total_bytes=_bytes(usage[2]),
            utilization_percent=_whole(usage[3]),
            processes=processes.get(int(found[1]), ()),
        )


def _processes(text: str) -> Iterator[tuple[int, tuple[Process, ...]]]:
    rows: list[str] = []
    for line in text.splitlines():
        if line.startswith(("|", "+")) or not rows:
            rows.append(line)
        else:
            rows[-1] = f"{rows[-1].rstrip()} {line.strip()}"
    found: dict[int, list[Process]] = {}
    for row in filter(None, map(_PROCESS.fullmatch, rows)):
        process = Process(pid=int(row[2]), name=row[3].strip(), memory_bytes=_bytes(row[4] or ""))
        found.setdefault(int(row[1]), []).append(process)
    for index, of_device in found.items():
        yield index, tuple(of_device)


def parse_query(text: str, columns: Sequence[str] = QUERY) -> tuple[Device, ...]:
    """Read ``hl-smi -Q columns -f csv``, with ``noheader`` and ``nounits`` or without.

    Columns that are not those of a Device are passed over. Raises CannotRun for a row of another length, without an
    index or with a value that is none.
    """
    devices: list[Device] = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        cells = [cell.strip() for cell in row]
        if not any(cells) or [re.sub(r"\s*\[.*\]", "", cell) for cell in cells] == list(columns):
            continue
        told = dict(zip(columns, cells, strict=False))
        index = told.get("index", str(len(devices)))
        numbers = [told.get(name, "") for name in ("module_id", "memory.used", "memory.total", "utilization.aip")]
        if len(cells) != len(columns) or not index.isdecimal() or not all(map(_number_or_untold, numbers)):
            raise not_understood(f"hl-smi -Q {','.join(columns)} -f csv", ",".join(row))
        devices.append(
            Device(
                index=int(index),
                bus_id=told.get("bus_id", "").lower(),
                name=told.get("name", ""),
                module_id=_whole(numbers[0]),
                memory_used_bytes=_bytes(numbers[1]),
                memory_total_bytes=_bytes(numbers[2]),
                utilization_percent=_whole(numbers[3]),
            )
        )
    return tuple(devices)


def parse_details(text: str) -> dict[str, Details]:
    """Return what ``hl-smi -L`` tells of each device, by bus id; none where it tells of none."""
    found = {}
    for part in re.split(r"^\[\d+\] AIP ", text, flags=re.MULTILINE)[1:]:
        bus_id = _BUS_ID.search(part)
        if bus_id:
            module = _field(part, "Module ID")
            version = re.search(r"\bhl-[a-z]+\d*-(\S+)", _field(part, "Firmware [SPI] Version"))
            details = Details(_whole(module), _field(part, "Module status"), version[1] if version else "")
            found[bus_id[0].lower()] = details
    return found


def _field(text: str, name: str) -> str:
    found = re.search(rf"^\s*{re.escape(name)}\s*: *(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _bytes(text: str) -> int | None:
    found = _AMOUNT.fullmatch(text)
    return int(found[1]) * 2**20 if found else None


def _whole(text: str) -> int | None:
    found = _WHOLE.fullmatch(text)
    return int(found[1]) if found else None


def _number_or_untold(text: str) -> bool:
    return text in ("", "N/A") or bool(_AMOUNT.fullmatch(text) or _WHOLE.fullmatch(text))


def not_understood(command: str, text: str) -> CannotRun:
    """Return the error for what is no output of hl-smi as it is known."""
    line = next(filter(None, map(str.strip, text.splitlines())), "")
    said = f"{line[:120]!r}" if line else "nothing"
    return CannotRun(
        f"`{command}` printed {said} where its devices are expected.",
        "Run it by hand; if it shows the devices there, report what it printed.",
    )
