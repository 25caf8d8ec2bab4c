"""Real child processes that succeed, crash, hang, talk nonsense and leave others behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launch_examples import LIMITS, run, start

from conformance.errors import HarnessFault, UsageError
from conformance.launch.groups import merged
from conformance.launch.supervision import Limits, Outcome, run_subjects


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait for a condition, at most five seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_gone(pid: int) -> bool:
    """A process is gone when it is no more, or is only waiting for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def failure(outcome: Outcome) -> tuple[str, str]:
    assert outcome.result is None and outcome.failure is not None
    return outcome.failure.message, outcome.failure.hint


def test_a_result_and_exit_0_is_a_success(tmp_path: Path) -> None:
    heard: list[tuple[int, str]] = []
    body = """
say(wire.STARTED, tensorflow="2.0")
say(wire.RESULT, top1=0.5)
print("bye")
"""
    (outcome,) = run_subjects(
        [start(tmp_path, body)], LIMITS, lambda index, event: heard.append((index, event["event"]))
    )
    assert outcome.result == {"top1": 0.5} and outcome.failure is None
    assert outcome.started is not None and outcome.started["tensorflow"] == "2.0"
    assert heard == [(0, "started"), (0, "result")]
    assert outcome.exit_status == 0 and outcome.log_tail == ("bye",)
    assert 0 < outcome.duration_s < 10


def test_the_environment_is_the_users_with_what_the_launch_sets_and_unsets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("GONE", "1")
    monkeypatch.setenv("CHANGED", "1")
    body = 'say(wire.RESULT, env={k: os.environ.get(k) for k in ("KEPT", "GONE", "CHANGED", "NEW")})'
    outcome = run(tmp_path, body, env={"GONE": None, "CHANGED": "2", "NEW": "3"})
    assert outcome.result == {"env": {"KEPT": "1", "GONE": None, "CHANGED": "2", "NEW": "3"}}


@pytest.mark.parametrize(
    ("body", "message", "hint"),
    [
        (
            "os.kill(os.getpid(), signal.SIGSEGV)",
            "The subject was killed by SIGSEGV (signal 11).",
            "Read its log, {log}.",
        ),
        (
            "import ctypes; ctypes.string_at(0)",
            "The subject was killed by SIGSEGV (signal 11).",
            "Read its log, {log}.",
        ),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "The subject was killed by SIGKILL (signal 9), as the kernel does when memory runs out.",
            "Try a smaller batch or a machine with more memory; dmesg names what the kernel killed.",
        ),
        (
            "os.kill(os.getpid(), signal.SIGILL)",
            "The subject was killed by SIGILL (signal 4).",
            "This stack was built for another CPU; use a build for this one.",
        ),
        (
            "os.kill(os.getpid(), signal.SIGRTMIN + 1)",
            "The subject was killed by signal 35.",
            "Read its log, {log}.",
        ),
        (
            "say(wire.RESULT); os.kill(os.getpid(), signal.SIGABRT)",
            "The subject was killed by SIGABRT (signal 6) after its result.",
            "Read its log, {log}.",
        ),
        (
            "sys.exit(3)",
            "The subject exited with status 3 without a result.",
            "Read its log, {log}.",
        ),
        (
            "say(wire.RESULT); print('no'); sys.exit(1)",
            "The subject exited with status 1 after its result; its log ends with 'no'.",
            "Read its log, {log}.",
        ),
        (
            "import nothing_of_that_name",
            "The subject exited with status 1 without a result; its log ends with"
            " \"ModuleNotFoundError: No module named 'nothing_of_that_name'\".",
            "Read its log, {log}.",
        ),
        ("pass", "The subject exited with status 0 without a result.", "Read its log, {log}."),
        (
            "say(wire.FAILED, message='No such graph.', hint='Make it.'); sys.exit(1)",
            "No such graph.",
            "Make it.",
        ),
        (
            "say(wire.FAILED, message='No such graph.', hint='Make it.')",
            "No such graph.",
            "Make it.",
        ),
        (
            "say(wire.FAILED)",
            "The subject failed and did not say why.",
            "Read its log, {log}.",
        ),
    ],
)
def test_an_end_that_is_no_success_is_told(tmp_path: Path, body: str, message: str, hint: str) -> None:
    expected = (message, hint.format(log=tmp_path / "subject.log"))
    assert failure(run(tmp_path, body)) == expected


@pytest.mark.parametrize(
    ("before", "last"),
    [
        ("", "nothing was ever heard of it"),
        ("say(wire.PHASE, name='warm-up')", "its last event was phase 'warm-up'"),
        ("say(wire.ALIVE)", "its last event was alive"),
    ],
)
def test_a_subject_that_falls_silent_is_ended(tmp_path: Path, before: str, last: str) -> None:
    limits = Limits(time_limit_s=20, silence_limit_s=0.6)
    outcome = run(tmp_path, f"{before}\ntime.sleep(60)", limits)
    assert failure(outcome) == (
        f"The subject hung: no event for 0.6 s; {last}.",
        f"Read its log, {tmp_path / 'subject.log'}.",
    )
    assert outcome.exit_status == -signal.SIGTERM and outcome.duration_s < 5


def test_a_subject_that_goes_on_talking_is_held_to_its_time_limit(tmp_path: Path) -> None:
    limits = Limits(time_limit_s=0.8, silence_limit_s=0.5)
    body = "while True:\n    say(wire.PROGRESS, done=1, total=2); time.sleep(0.05)"
    outcome = run(tmp_path, body, limits)
    assert failure(outcome) == (
        "The subject was not done after 0.8 s, its time limit; its last event was progress.",
        "Raise time_limit_s of the case, or ask for fewer steps.",
    )
    assert len(outcome.events) > 1


def test_a_subject_that_failed_and_does_not_exit_is_ended_after_the_grace(tmp_path: Path) -> None:
    outcome = run(tmp_path, "say(wire.FAILED, message='No.', hint='Yes.')\ntime.sleep(60)")
    assert failure(outcome) == ("No.", "Yes.")
    assert outcome.duration_s < 8


def test_a_subject_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    limits = Limits(time_limit_s=20, silence_limit_s=0.6, grace_s=0.3)
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say(wire.ALIVE)\ntime.sleep(60)"
    assert run(tmp_path, body, limits).exit_status == -signal.SIGKILL


@pytest.mark.parametrize("line", ["Segmentation fault", "", "[1]", '{"no": "event"}'])
def test_garbage_on_the_event_stream_is_quoted_and_ends_the_subject(tmp_path: Path, line: str) -> None:
    body = f"say(wire.ALIVE)\nopen(sys.argv[1], 'a').write({line!r} + chr(10))\ntime.sleep(60)"
    outcome = run(tmp_path, body)
    message, hint = failure(outcome)
    assert message == f"The event stream is broken: not an event: {line or ' '!r}."
    assert hint == f"Only the subject writes events; see who else writes to {tmp_path / 'subject.events'}."
    assert [event["event"] for event in outcome.events] == ["alive"]
    assert outcome.exit_status == -signal.SIGTERM


def test_an_event_that_is_written_in_two_halves_is_one_event(tmp_path: Path) -> None:
    body = """
line = wire.event_line(wire.RESULT, {"images": 10})
for half in line[:20], line[20:]:
    with open(sys.argv[1], "ab") as file:
        file.write(half)
    time.sleep(0.2)
"""
    assert run(tmp_path, body).result == {"images": 10}


def test_events_before_a_crash_are_kept(tmp_path: Path) -> None:
    body = """
for done in range(500):
    say(wire.PROGRESS, done=done)
os.kill(os.getpid(), signal.SIGSEGV)
"""
    outcome = run(tmp_path, body)
    assert [event["done"] for event in outcome.events] == list(range(500))


def test_events_and_go_file_of_an_earlier_try_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    (tmp_path / "subject.events").write_text('{"event": "result", "top1": 1.0}\n')
    (tmp_path / "subject.go").touch()
    (outcome,) = run_subjects(
        [start(tmp_path, "sys.exit(os.path.exists(sys.argv[2]))", go=True)], LIMITS, lambda *_: None
    )
    assert failure(outcome)[0] == "The subject exited with status 0 without a result."


def test_the_log_is_appended_to_and_its_tail_is_of_this_subject(tmp_path: Path) -> None:
    (tmp_path / "subject.log").write_text("of an earlier try\n")
    outcome = run(tmp_path, "for i in range(30):\n    print('line', i, flush=True)\nprint('err', file=sys.stderr)")
    assert (tmp_path / "subject.log").read_text().startswith("of an earlier try\n")
    assert len(outcome.log_tail) == 20 and "of an earlier try" not in outcome.log_tail
    assert {"err", "line 29"} <= set(outcome.log_tail)


def test_nothing_is_read_from_the_terminal(tmp_path: Path) -> None:
    assert run(tmp_path, "say(wire.RESULT, read=sys.stdin.read())").result == {"read": ""}


@pytest.mark.parametrize("end", ["say(wire.RESULT)", "sys.exit(1)", "time.sleep(60)"])
def test_what_a_subject_started_in_the_background_is_ended_with_it(tmp_path: Path, end: str) -> None:
    limits = Limits(time_limit_s=20, silence_limit_s=1, grace_s=0.5)
    body = f"""
child = subprocess.Popen(["sleep", "300"])
say(wire.PHASE, name="started", child=child.pid)
{end}
"""
    outcome = run(tmp_path, body, limits)
    assert eventually(lambda: is_gone(outcome.events[0]["child"]))


def test_subjects_run_side_by_side_and_start_together(tmp_path: Path) -> None:
    body = """
time.sleep(float(os.environ["LATE_S"]))
say(wire.PHASE, name="ready")
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
say(wire.RESULT, go=time.monotonic())
"""
    starts = [start(tmp_path, body, f"s{i}", go=True, env={"LATE_S": str(0.4 * i)}) for i in range(2)]
    outcomes = run_subjects(starts, LIMITS, lambda index, event: None)
    ready = [outcome.events[0]["monotonic_s"] for outcome in outcomes]
    went = [outcome.result["go"] for outcome in outcomes if outcome.result]
    assert len(went) == 2 and min(went) >= max(ready)
    assert max(went) - min(went) < 0.3


def test_when_one_subject_fails_the_others_are_ended(tmp_path: Path) -> None:
    starts = [
        start(tmp_path, "say(wire.ALIVE)\ntime.sleep(60)", "patient"),
        start(tmp_path, "say(wire.RESULT, images=1)", "quick"),
        start(tmp_path, "time.sleep(0.8)\nsys.exit(5)", "broken"),
    ]
    patient, quick, broken = run_subjects(starts, LIMITS, lambda index, event: None)
    assert failure(broken)[0] == "The subject exited with status 5 without a result."
    assert failure(patient) == (
        "The subject was ended because subject 2 failed: The subject exited with status 5 without a result.",
        f"Read its log, {tmp_path / 'broken.log'}.",
    )
    assert patient.exit_status == -signal.SIGTERM and patient.events[0]["event"] == "alive"
    assert quick.result == {"images": 1}


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_whatever_is_raised_while_a_subject_runs_it_is_ended(tmp_path: Path, raised: type[BaseException]) -> None:
    pids: list[int] = []

    def stop(index: int, event: dict[str, Any]) -> None:
        pids.extend([event["pid"], event["child"]])
        raise raised

    body = """
child = subprocess.Popen(["sleep", "300"])
say(wire.PHASE, child=child.pid)
time.sleep(60)
"""
    with pytest.raises(raised):
        run_subjects([start(tmp_path, body)], LIMITS, stop)
    assert is_gone(pids[0]) and eventually(lambda: is_gone(pids[1]))


def test_a_subject_that_cannot_be_started_ends_those_before_it(tmp_path: Path) -> None:
    first = start(tmp_path, "say(wire.ALIVE)\ntime.sleep(60)", "first")
    (tmp_path / "text").write_bytes(b"\x7fELF no program")
    (tmp_path / "text").chmod(0o755)
    second = start(tmp_path, "", "second", argv=(str(tmp_path / "text"),))
    with pytest.raises(HarnessFault, match=r"cannot be started: .*Exec format error.*second\.log"):
        run_subjects([first, second], LIMITS, lambda index, event: None)
    running = subprocess.run(["pgrep", "-f", str(first.events_path)], capture_output=True, check=False)
    assert running.stdout == b""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_harness_leaves_no_subject(tmp_path: Path, number: signal.Signals) -> None:
    job = start(tmp_path, "say(wire.ALIVE)\ntime.sleep(60)")
    harness = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from pathlib import Path
from conformance.launch.supervision import run_subjects
from launch_examples import LIMITS, start
run_subjects([start(Path({str(tmp_path)!r}), "say(wire.ALIVE)\\ntime.sleep(60)")], LIMITS,
             lambda index, event: print(event["pid"], flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", harness], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert not is_gone(pid) and job.events_path.exists()
        process.send_signal(number)
        assert process.wait() == -number
    assert eventually(lambda: is_gone(pid))


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (
            ("/no/python", "-m", "x"),
            "The interpreter '/no/python' does not exist.",
            "Name the python of an environment with TensorFlow.",
        ),
        (
            ("{file}", "-m", "x"),
            "The interpreter '{file}' is not executable.",
            "Name the python of an environment with TensorFlow.",
        ),
        (
            ("taskset", "--cpu-list", "0-3", "/no/python", "-m", "x"),
            "The interpreter '/no/python' does not exist.",
            "Name the python",
        ),
        (
            ("numactl", "--cpunodebind=0", "--membind=0", "/no/python", "-m", "x"),
            "'numactl' is not installed; it binds the subject to CPUs 0-3.",
            "apt install numactl",
        ),
    ],
)
def test_a_program_that_is_missing_is_told_before_anything_starts(
    tmp_path: Path, argv: tuple[str, ...], message: str, hint: str
) -> None:
    file = tmp_path / "file"
    file.touch(mode=0o644)
    (tmp_path / "taskset").symlink_to("/bin/true")
    words = tuple(word.format(file=file) for word in argv)
    with pytest.raises(UsageError) as raised:
        run(tmp_path, "", argv=words, env={"PATH": str(tmp_path)}, cpus=(0, 1, 2, 3))
    assert raised.value.message == message.format(file=file)
    assert hint in raised.value.hint
    assert not (tmp_path / "subject.events").exists()


def test_the_interpreter_after_numactl_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "numactl").symlink_to("/bin/true")
    argv = ("numactl", "--physcpubind=0,1", "--membind=0", "/no/python", "-m", "x")
    with pytest.raises(UsageError, match="The interpreter '/no/python' does not exist"):
        run(tmp_path, "", argv=argv, env={"PATH": str(tmp_path)})


def test_a_bound_subject_runs_on_its_cores_only(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    plain = start(tmp_path, "say(wire.RESULT, cpus=sorted(os.sched_getaffinity(0)))").launched.argv
    outcome = run(tmp_path, "", argv=("taskset", "--cpu-list", str(cpu), *plain))
    assert outcome.result == {"cpus": [cpu]}


def test_an_event_stream_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "subject.events").mkdir()
    with pytest.raises(HarnessFault, match=r"The event stream cannot be made: .*Is a directory.*subject"):
        run(tmp_path, "")


def test_an_unset_variable_is_left_out_of_the_environment(tmp_path: Path) -> None:
    launched = start(tmp_path, "", env={"A": None, "B": "2"}).launched
    assert merged(launched, {"A": "1", "C": "3"}).items() >= {("B", "2"), ("C", "3")}
    assert "A" not in merged(launched, {"A": "1"})
