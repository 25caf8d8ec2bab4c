"""What control groups leave to this process: CPUs, CPU time and memory, in version 1 and version 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from conformance.hardware.host import parse_cpu_list

UNLIMITED = 1 << 60  # version 1 writes a number near 2**63 where there is no limit


class Limits(NamedTuple):
    """The tightest limits from this process's group up to the root; None where there is none."""

    cpus: tuple[int, ...] | None
    quota_cpus: float | None
    memory_bytes: int | None


def limits(groups: str, root: Path) -> Limits:
    """Return the limits of a process from its /proc/PID/cgroup and the file system mounted at ``root``."""
    cpus: tuple[int, ...] | None = None
    quotas: list[float] = []
    memories: list[int] = []
    for controllers, path in _groups(groups):
        for folder in _upwards(root, controllers, path):
            if cpus is None:
                cpus = _cpus(folder)
            quotas += _quota(folder)
            memories += _memory(folder)
    return Limits(cpus, min(quotas, default=None), min(memories, default=None))


def _groups(text: str) -> Iterator[tuple[str, str]]:
    """Yield (controllers, path) of lines such as ``4:cpu,cpuacct:/user`` (version 1) and ``0::/user`` (version 2)."""
    for line in text.splitlines():
        if line.count(":") >= 2:
            _, controllers, path = line.split(":", 2)
            yield controllers, path


def _upwards(root: Path, controllers: str, path: str) -> Iterator[Path]:
    """Yield the folders of a group and of its parents.

    A container sees its own group as the root: a folder that is not there is passed over, as is the
    ``..`` that stands for a group outside of the container.
    """
    bases = [root / controllers, *(root / name for name in controllers.split(",") if "," in controllers)]
    if not controllers:
        bases = [root, root / "unified"]
    for base in bases:
        if base.is_dir():
            steps = [step for step in path.split("/") if step not in ("", ".", "..")]
            for depth in range(len(steps), -1, -1):
                yield base.joinpath(*steps[:depth])


def _cpus(folder: Path) -> tuple[int, ...] | None:
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
        text = _text(folder / name)
        if text:
            return parse_cpu_list(text)
    return None


def _quota(folder: Path) -> Iterator[float]:
    """Yield quota over period, in CPUs, where there is a quota: cpu.max, or cpu.cfs_quota_us in version 1."""
    quota, _, period = (_text(folder / "cpu.max") or "").partition(" ")
    if not quota:
        quota, period = _text(folder / "cpu.cfs_quota_us") or "", _text(folder / "cpu.cfs_period_us") or ""
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        yield int(quota) / int(period)


def _memory(folder: Path) -> Iterator[int]:
    for name in ("memory.max", "memory.limit_in_bytes"):
        text = _text(folder / name) or ""
        if text.isdecimal() and int(text) < UNLIMITED:
            yield int(text)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
