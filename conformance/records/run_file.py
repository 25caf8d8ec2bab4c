"""Reading and writing of run files: whole lines or none, by one process or by several at once."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec

from conformance.errors import HarnessFault, UsageError
from conformance.records import READABLE, RUN_FILE, Comparison, Footer, Header, Line, Record, Run

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_AGAIN = "Give the directory of a run, as pytest printed it at the end of the session."


class _Probe(msgspec.Struct, frozen=True):
    """What every header holds, whatever its schema."""

    line: str
    schema: int


class _Named(msgspec.Struct, frozen=True):
    run: str = ""


def run_name(started: datetime) -> str:
    """Return a fresh name such as ``run-20261121-120301-4f2a``."""
    return f"run-{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def finite(metrics: Mapping[str, float]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Split metrics into those with a finite value, which a record may hold, and the names of the others.

    JSON has no NaN: a metric that is not finite is absent from ``metrics`` and is judged ``invalid``.
    """
    kept = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return kept, tuple(name for name in metrics if name not in kept)


class RunWriter:
    """Appends lines to the run file of ``directory``; workers of one session may hold one each."""

    def __init__(self, directory: Path, fd: int) -> None:
        self.directory = directory
        self._fd = fd

    @classmethod
    def create(cls, output_dir: Path, header: Header) -> RunWriter:
        """Make the directory ``output_dir / header.run``, which must not exist, and write the header.

        Raises HarnessFault when the directory cannot be made or written.
        """
        directory = output_dir / header.run
        try:
            directory.mkdir(parents=True)
            fd = os.open(directory / RUN_FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unwritable("make the run directory", directory, error) from None
        writer = cls(directory, fd)
        writer.append(header)
        _sync_directory(directory)
        return writer

    @classmethod
    def join(cls, directory: Path) -> RunWriter:
        """Open the run file that another process created, to append to it as well."""
        try:
            fd = os.open(directory / RUN_FILE, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise _unwritable("open the run file in", directory, error) from None
        return cls(directory, fd)

    def append(self, line: Line) -> None:
        """Write one line with one write, and return when it is on the disk.

        Raises ValueError for a line that could not be read back (a NaN where a number must be),
        HarnessFault when the disk refuses it; the file then holds nothing of the line.
        """
        data = _encoded(line)
        try:
            with _locked(self._fd):
                end = _cut_torn_line(self._fd)
                _write_whole(self._fd, data, end)
                os.fsync(self._fd)
        except OSError as error:
            raise _unwritable("write to the run file in", self.directory, error) from None

    def finish(self, footer: Footer) -> None:
        """Write the footer: the run ended by itself."""
        self.append(footer)
        self.close()

    def close(self) -> None:
        os.close(self._fd)


def _encoded(line: Line) -> bytes:
    data = _ENCODER.encode(line)
    try:
        _DECODER.decode(data)
    except msgspec.ValidationError as error:
        raise ValueError(f"{type(line).__name__} could not be read back: {error}") from None
    return data + b"\n"


@contextmanager
def _locked(fd: int) -> Iterator[None]:
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _cut_torn_line(fd: int) -> int:
    """Cut what a worker that was killed while writing left of its line; return where the next begins."""
    end = size = os.fstat(fd).st_size
    while end and os.pread(fd, 1, end - 1) != b"\n":
        end -= 1
    if end != size:
        os.ftruncate(fd, end)
    return end


def _write_whole(fd: int, data: bytes, end: int) -> None:
    try:
        written = os.write(fd, data)
        if written != len(data):
            raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes were taken")
    except OSError:
        os.ftruncate(fd, end)
        raise


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unwritable(doing: str, directory: Path, error: OSError) -> HarnessFault:
    return HarnessFault(
        f"Cannot {doing} {str(directory)!r}: {error.strerror or error}.",
        "Free space there, or give another directory with --output-dir.",
    )


def read_run(path: Path) -> Run:
    """Read a run from its directory or its run file.

    A last line that was torn by a kill is left out, and ``footer`` is then None. Raises UsageError
    for a path that is no run, another schema, a damaged line or a run without a record.
    """
    file = path / RUN_FILE if path.is_dir() else path
    lines = _whole_lines(file)
    header = _header(file, lines)
    body = [_line(file, number, data) for number, data in enumerate(lines[1:], start=2)]
    footer = body[-1] if body and isinstance(body[-1], Footer) else None
    records, comparisons = _judged(file, body if footer is None else body[:-1])
    return Run(directory=str(file.parent), header=header, records=records, footer=footer, comparisons=comparisons)


def name_of(directory: Path) -> str:
    """Return the name in the header of a run, whatever its directory is called; empty where there is none."""
    try:
        with (directory / RUN_FILE).open("rb") as file:
            return msgspec.json.decode(file.readline(), type=_Named).run
    except (OSError, UnicodeDecodeError, msgspec.DecodeError):
        return ""


def written(directory: Path) -> tuple[list[Record], list[Comparison]]:
    """Return what a run that goes on has written so far, which may be nothing."""
    file = directory / RUN_FILE
    lines = [_line(file, number, data) for number, data in enumerate(_whole_lines(file), start=1)]
    return [one for one in lines if isinstance(one, Record)], [one for one in lines if isinstance(one, Comparison)]


def _whole_lines(file: Path) -> list[bytes]:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"There is no run file {str(file)!r}.", _nearby(file.parent)) from None
    except OSError as error:
        raise UsageError(f"{str(file)!r} cannot be read: {error.strerror}.", _AGAIN) from None
    return data.split(b"\n")[:-1]


def _nearby(directory: Path) -> str:
    runs = sorted(child.parent.name for child in directory.glob(f"*/{RUN_FILE}"))
    return f"Give one of the runs in it: {', '.join(runs[-3:])}." if runs else _AGAIN


def _header(file: Path, lines: list[bytes]) -> Header:
    no_run = UsageError(f"{str(file)!r} is no run file: its first line is no header.", _AGAIN)
    try:
        probe = msgspec.json.decode(lines[0], type=_Probe)
    except (IndexError, msgspec.DecodeError):
        raise no_run from None
    if probe.line != "header":
        raise no_run
    if probe.schema not in READABLE:
        raise UsageError(
            f"{str(file)!r} has schema {probe.schema}, this version reads {' and '.join(map(str, READABLE))}.",
            "Read it with the version of the harness that wrote it.",
        )
    header = _line(file, 1, lines[0])
    assert isinstance(header, Header)
    return header


def _judged(file: Path, body: list[Line]) -> tuple[tuple[Record, ...], tuple[Comparison, ...]]:
    records: list[Record] = []
    comparisons: list[Comparison] = []
    for number, line in enumerate(body, start=2):
        if isinstance(line, Record):
            records.append(line)
        elif isinstance(line, Comparison):
            comparisons.append(line)
        else:
            raise _damaged(file, number, f"a {type(line).__name__.lower()} stands among the records")
    if not records:
        message = f"{str(file)!r} holds no record: the run judged nothing."
        raise UsageError(message, "Look into its logs, and run the suites again.")
    return tuple(records), tuple(comparisons)


def _line(file: Path, number: int, data: bytes) -> Line:
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(file, number, str(error).rstrip(".")) from None


def _damaged(file: Path, number: int, what: str) -> UsageError:
    return UsageError(
        f"Line {number} of {str(file)!r} is damaged: {what}.",
        "Take an undamaged copy of the run; a line in the middle is never left out silently.",
    )
