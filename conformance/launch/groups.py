"""Process groups: each subject leads one, dies with the harness, and is ended with all it started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from conformance.errors import HarnessFault, UsageError
from conformance.launch.placement import cpu_list
from conformance.records import Launched

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_BINDERS = {"numactl": "numactl", "taskset": "util-linux"}  # command: package


def merged(launched: Launched, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a launch: the user's with what the launch sets and unsets."""
    changed = {**environ, **launched.env}
    return {name: value for name, value in changed.items() if value is not None}


def require_programs(launched: Launched, environ: Mapping[str, str]) -> None:
    """Raise UsageError for a launch whose binder or interpreter is not here or not executable."""
    path = merged(launched, environ).get("PATH")
    binder, program = launched.argv[0], launched.argv[0]
    if binder in _BINDERS:
        if shutil.which(binder, path=path) is None:
            raise UsageError(
                f"{binder!r} is not installed; it binds the subject to CPUs {cpu_list(launched.cpus)}.",
                f"apt install {_BINDERS[binder]}",
            )
        program = _bound_program(launched.argv)
    if shutil.which(program, path=path) is None:
        state = "is not executable" if Path(program).is_file() else "does not exist"
        raise UsageError(f"The interpreter {program!r} {state}.", "Name the python of an environment with TensorFlow.")


def _bound_program(argv: Sequence[str]) -> str:
    """Return what numactl or taskset is asked to start: the first word that is none of its own."""
    return argv[3] if argv[0] == "taskset" else next(word for word in argv[1:] if not word.startswith("-"))


def spawn(launched: Launched, cwd: Path, log_path: Path) -> subprocess.Popen[bytes]:
    """Start the leader of a new session and process group; its output is appended to the log.

    Raises HarnessFault when the log cannot be written or the system refuses to start it.
    """
    try:
        with open(log_path, "ab") as log:
            return subprocess.Popen(
                launched.argv,
                env=merged(launched, os.environ),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_death_with_parent(),  # noqa: PLW1509  (it calls prctl and getppid only)
            )
    except OSError as error:
        raise HarnessFault(
            f"The subject cannot be started: {error}.", f"Check {log_path} and {launched.argv[0]}."
        ) from None


def peek(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit status of a child, negative for a signal, or None while it runs.

    It stays a zombie, so that the number of its group cannot become somebody else's before
    ``end`` has signalled the group.
    """
    if process.returncode is not None:
        return process.returncode
    seen = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if seen is None:
        return None
    return seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status


def end(processes: Sequence[subprocess.Popen[bytes]], grace_s: float) -> None:
    """End the groups: SIGTERM, SIGKILL to what is left when the leader is gone or the grace over.

    What a leader that exited by itself left behind is killed at once.
    """
    groups = [process for process in processes if process.returncode is None]
    try:
        running = [process for process in groups if peek(process) is None]
        for process in running:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and any(peek(process) is None for process in running):
            time.sleep(0.02)
    finally:
        for process in groups:
            _signal(process, signal.SIGKILL)
        for process in groups:
            process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # the whole group is gone already
        os.killpg(process.pid, number)


def _death_with_parent() -> Callable[[], None]:
    """Return what a child runs before exec, so that a SIGKILL of the harness leaves no orphan.

    The C library is loaded here, because between fork and exec nothing may be imported. The
    kernel watches the thread that forked: it must live as long as the child is wanted.
    """
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was told
            os.kill(os.getpid(), signal.SIGKILL)

    return arrange
