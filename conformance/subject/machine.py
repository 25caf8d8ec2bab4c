"""What else the bound CPUs did while the steps were timed, read from the kernel."""

import glob
import os
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

TICKS = os.sysconf("SC_CLK_TCK")


class Reading(NamedTuple):
    """Seconds since some start: of theft by the hypervisor, of work by anyone, of work by this process."""

    steal_s: Optional[float]
    busy_s: Optional[float]
    own_s: float
    clock_s: float
    throttle_events: Optional[int]


def cpu_seconds(text: str, cpus: List[int]) -> Optional[Tuple[float, float]]:
    """Return seconds of steal and of work of these CPUs from the text of /proc/stat; None if one is missing.

    Work is user, nice, system, irq and softirq time (proc(5)).
    """
    wanted = {"cpu%d" % cpu for cpu in cpus}
    steal = busy = found = 0
    for line in text.splitlines():
        name, *columns = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, stolen = (int(c) for c in columns[:8])
            steal += stolen
            busy += user + nice + system + irq + softirq
            found += 1
    return (steal / TICKS, busy / TICKS) if found == len(wanted) else None


def throttle_events(root: str, cpus: List[int]) -> Optional[int]:
    """Return how often these CPUs were throttled since boot; None where the kernel does not count it."""
    total, found = 0, False
    for cpu in cpus:
        for path in glob.glob("%s/cpu%d/thermal_throttle/core_throttle_count" % (root, cpu)):
            with open(path) as file:
                total += int(file.read())
            found = True
    return total if found else None


def read(cpus: List[int]) -> Reading:
    try:
        with open("/proc/stat") as file:
            seconds = cpu_seconds(file.read(), cpus)
    except OSError:
        seconds = None
    steal, busy = seconds if seconds else (None, None)
    throttled = throttle_events("/sys/devices/system/cpu", cpus)
    return Reading(steal, busy, time.process_time(), time.monotonic(), throttled)


def between(before: Reading, after: Reading, cpus: List[int]) -> Dict[str, Any]:
    """Return the difference of two readings under the names that the host side judges."""

    def difference(name: str) -> Optional[float]:
        first, second = getattr(before, name), getattr(after, name)
        return None if first is None or second is None else second - first

    return {
        "steal_s": difference("steal_s"),
        "busy_s": difference("busy_s"),
        "own_s": difference("own_s"),
        "elapsed_s": difference("clock_s"),
        "throttle_events": difference("throttle_events"),
        "cpus": len(cpus),
    }
