"""Slurm for real: a cluster of one node for these tests alone, with daemons, sockets and a key of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ranks_sessions import MPIRUN, SHORT, WITH_MPIRUN, needs_horovod, small_stack
from session_examples import session
from test_launch_ranks import RANK, left

from conformance.hardware.detect import detect
from conformance.hardware.profile import Drive
from conformance.launch.layout import Ranks
from conformance.launch.placement import Request
from conformance.launch.ranks import compose_ranks
from conformance.launch.rules import subject_path
from conformance.launch.supervision import Limits, Outcome, Start, run_subjects

pytestmark = [pytest.mark.outside, *WITH_MPIRUN]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
PATIENCE_S = 60.0
CONFIGURATION = """\
ClusterName=conformance
SlurmctldHost={name}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName={name} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
"""


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a cluster that SLURM_CONF names for as long as these tests run."""
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} is not installed (apt install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("only root can start Slurm's daemons")
    place = tmp_path_factory.mktemp("slurm")
    for name in ("munge", "state", "spool"):
        (place / name).mkdir()
    (place / "munge" / "key").write_bytes(os.urandom(1024))
    (place / "munge" / "key").chmod(0o400)
    name = socket.gethostname().split(".")[0]
    text = CONFIGURATION.format(name=name, place=place, cpus=os.cpu_count(), ports=free_ports())
    (place / "slurm.conf").write_text(text)
    munge = [f"--{what}={place}/munge/{name}" for what, name in
             (("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("seed-file", "seed"))]  # fmt: skip
    daemons: list[subprocess.Popen[bytes]] = []

    def begin(*argv: str) -> None:
        with open(place / f"{argv[0]}.out", "wb") as out:
            daemons.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
        patch.setenv("SLURM_CONF", str(place / "slurm.conf"))
        try:
            begin("munged", "--foreground", "--force", *munge)  # forced: it distrusts a socket below /tmp
            if not until((place / "munge" / "socket").exists):
                pytest.skip(f"munged does not start here: {told(place, 'munged')}")
            begin("slurmctld", "-D", "-i")
            begin("slurmd", "-D")
            if not until(lambda: "idle" in asked("sinfo", "-h", "-o", "%T")):
                pytest.skip(f"Slurm does not start here: {told(place, 'slurmctld')} {told(place, 'slurmd')}")
            yield place
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


def free_ports() -> list[int]:
    """Return two ports that nobody listens on."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in (first, second)]


def told(place: Path, daemon: str) -> str:
    return (place / f"{daemon}.out").read_text(errors="replace")[-1000:]


def asked(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S).stdout


def until(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def queue_is_empty() -> bool:
    return until(lambda: asked("squeue", "-h") == "")


def start(place: Path, body: str) -> Start:
    """Return how two ranks of a few lines of Python are submitted."""
    (place / "rank.py").write_text(RANK + body)
    stand_in = place / "python"
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{place}/rank.py" "{place}/events"\n')
    stand_in.chmod(0o755)
    ranks = Ranks(world_size=2, launcher="srun", oversubscribe=True)
    made = compose_ranks(
        MPIRUN, stand_in, place / "job.json", subject_path(place), place / "log", detect(), Drive(), Request(), ranks,
        "fp32", dict(os.environ), root=True,
    )  # fmt: skip
    assert made.script is not None
    Path(made.launched.argv[-1]).write_text(made.script)
    return Start(launched=made.launched, events_path=place / "events", log_path=place / "log", cwd=place)


def run(place: Path, body: str, limits: Limits, on_start: Callable[[], object] = lambda: None) -> Outcome:
    begun: list[bool] = []

    def hear(index: int, event: dict[str, object]) -> None:
        if not begun:
            begun.append(True)
            on_start()

    (outcome,) = run_subjects([start(place, body)], limits, hear)
    return outcome


@pytest.mark.tensorflow
@needs_horovod
def test_ranks_that_slurm_starts_leave_what_ranks_of_mpirun_leave(tmp_path: Path) -> None:
    ended = session(tmp_path, *SHORT, "--launcher", "srun", "--stack", small_stack(tmp_path))
    (record,) = ended.run.records
    assert (ended.status, record.verdict) == (0, "unjudged"), ended.text
    (launched,) = record.launched
    assert launched.argv[:2] == ("sbatch", "--wait") and len(launched.ranks) == 2
    assert not [note for note in record.notes if "the launch gave it" in note]
    assert len([note for note in record.notes if note.startswith("Rank ")]) == 2
    assert record.metrics["weights_differ"] == 0 and "12 steps, ended by the steps." in record.notes
    log = (Path(ended.run.directory) / record.artefacts["log"].path).read_text()
    assert "[1,0]<stdout>:loss = " in log
    script = Path(launched.argv[-1]).read_text()
    assert script.startswith("#!/bin/sh\n#SBATCH --job-name=conformance-") and "mpirun" in script
    assert queue_is_empty()


def test_the_time_that_a_job_waits_in_the_queue_counts_for_no_limit(tmp_path: Path) -> None:
    before = tmp_path / "before.sh"
    before.write_text(f"#!/bin/sh\n#SBATCH --exclusive\n#SBATCH --output={tmp_path}/before.log\nsleep 6\n")
    subprocess.run(["sbatch", str(before)], check=True, stdout=subprocess.DEVNULL)
    begun = time.monotonic()
    outcome = run(tmp_path, "say(wire.RESULT, result=rank)", Limits(time_limit_s=5, silence_limit_s=5))
    assert outcome.failure is None and outcome.result == {"result": 0}
    assert time.monotonic() - begun > 6 and queue_is_empty()


def test_a_job_that_slurm_does_not_take_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "none")
    outcome = run(tmp_path, "", Limits(time_limit_s=60))
    assert outcome.failure is not None and "Invalid partition name specified" in outcome.failure.message


KILLED = "Rank 1 of 2 was killed by SIGKILL (signal 9), as the kernel does when memory runs out."


@pytest.mark.parametrize(
    ("body", "limits", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL) if rank else time.sleep(60)", Limits(time_limit_s=60), KILLED),
        ("while True:\n    time.sleep(0.1 if rank else 60)\n    say(wire.ALIVE)",
         Limits(time_limit_s=60, silence_limit_s=3, grace_s=0.5),
         "Rank 0 of 2 hung: no event for 3 s; its last event was started."),
    ],
)  # fmt: skip
def test_ranks_that_fail_in_slurm_are_told_and_their_job_leaves_the_queue(
    tmp_path: Path, body: str, limits: Limits, message: str
) -> None:
    outcome = run(tmp_path, body, limits)
    assert outcome.failure is not None and outcome.failure.message == message
    assert queue_is_empty() and left(tmp_path) == []


def test_a_killed_harness_leaves_no_job(tmp_path: Path) -> None:
    harness = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from pathlib import Path
from conformance.launch.supervision import Limits
from test_slurm import run
run(Path({str(tmp_path)!r}), "time.sleep(60)", Limits(time_limit_s=60), lambda: print("up", flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", harness], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        assert asked("squeue", "-h", "-o", "%T") == "RUNNING\n"
        process.kill()
    assert queue_is_empty() and left(tmp_path) == []


def test_a_job_that_somebody_cancels_is_told_as_cancelled(tmp_path: Path) -> None:
    outcome = run(tmp_path, "time.sleep(60)", Limits(time_limit_s=60), lambda: asked("scancel", "--user=root"))
    assert outcome.failure is not None and outcome.failure.message == "Slurm ended the job: CANCELLED."
    assert outcome.duration_s < 30 and queue_is_empty() and left(tmp_path) == []
