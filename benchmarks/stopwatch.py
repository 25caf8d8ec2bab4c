"""A pytest plugin (``-p benchmarks.stopwatch``) that notes when each test began and ended and when subjects started.

One JSON line each, appended to the file that OVERHEAD_STOPWATCH names, by the monotonic clock of the subjects' events.
"""

import json
import os
import sys
import time
from typing import Any


def _note(what: str, name: str) -> None:
    with open(os.environ["OVERHEAD_STOPWATCH"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"what": what, "name": name, "monotonic_s": time.monotonic()}) + "\n")


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen" and "conformance.subject" in arguments[1]:
        _note("spawned", os.path.basename(arguments[1][-1]).removesuffix(".json"))


def pytest_configure() -> None:
    sys.addaudithook(_hear)


def pytest_runtest_logstart(nodeid: str) -> None:
    _note("begun", nodeid)


def pytest_runtest_logfinish(nodeid: str) -> None:
    _note("ended", nodeid)
