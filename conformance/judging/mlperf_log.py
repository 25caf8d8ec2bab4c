"""MLPerf's own log of a training run, and what MLPerf's own checkers say of it; needs the package mlperf-logging.

The log says what the run did and nothing else: the page cache was not cleared, a schedule that is no polynomial has no
power, and nobody submits it. The checkers write into the directory they are started in and evaluate their rule files as
code, so each is a process in a scratch directory, with the rule files of the package.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conformance.errors import HarnessFault, UsageError
from conformance.judging.mlperf import NAMES, UNOFFICIAL, Miss, Ruleset, TrainingRun, end_rate

BENCHMARK = "resnet"
NO_SUBMITTER = "none: not a submission"
TIME_LIMIT_S = 120.0
# How a message of the compliance checker names its key: at its beginning, or in the line of the log that it shows.
_KEYS = re.compile(
    r"Required \w+(?:\(\d+\))? occurrence of (?P<needed>'\w+'(?: or '\w+')*)"
    r"|CHECK for '(?P<checked>\w+)'|Failed checks for (?P<once>\w+) :"
    r'|"key": "(?P<shown>\w+)"'
)


def write_log(path: Path, run: TrainingRun, rules: Ruleset, platform: str) -> None:
    """Write a run's log, ``result_0.txt`` in MLPerf's naming; ``platform`` says what machine it was.

    It ends with the first evaluation that reached the target, as the clock of MLPerf does. Raises UsageError without
    mlperf-logging.
    """
    _require_package()
    from mlperf_logging.mllog import mllog

    text = io.StringIO()
    logger = logging.Logger("mlperf", logging.INFO)  # of no hierarchy: what pytest or the user set does not matter
    logger.addHandler(logging.StreamHandler(text))
    log = mllog.MLLogger(logger, root_dir=str(Path(__file__).parents[2]))
    times, reached = run.times, run.reached(rules.target)
    log.start("init_start", time_ms=times.init_start_ms)
    for key, value in {**_submission(rules, platform), **_hyperparameters(run)}.items():
        log.event(key, value, time_ms=times.init_start_ms)
    log.end("init_stop", time_ms=times.init_stop_ms)
    log.start("run_start", time_ms=times.run_start_ms)
    stop_ms = times.run_stop_ms if reached is None else times.evaluations[reached][1]
    since, done = times.run_start_ms, 0.0
    shown = slice(None if reached is None else reached + 1)
    for evaluation, (start_ms, end_ms) in zip(run.evaluations[shown], times.evaluations[shown], strict=True):
        block = {"first_epoch_num": _count(done + 1), "epoch_count": _count(evaluation.epoch - done)}
        log.start("block_start", metadata=block, time_ms=since)
        log.end("block_stop", metadata=block, time_ms=start_ms)
        after = {"epoch_num": _count(evaluation.epoch)}
        log.start("eval_start", metadata=after, time_ms=start_ms)
        log.event("eval_accuracy", evaluation.top1, metadata=after, time_ms=end_ms)
        log.end("eval_stop", metadata=after, time_ms=end_ms)
        since, done = end_ms, evaluation.epoch
    status = "aborted" if reached is None else "success"
    log.end("run_stop", metadata={"status": status}, time_ms=stop_ms)
    path.write_text(text.getvalue(), encoding="utf-8")


def compliance_misses(log: Path, rules: Ruleset) -> tuple[Miss, ...]:
    """Return the rules that the compliance checker of a ruleset says a log fails.

    Raises UsageError without mlperf-logging, HarnessFault when the checker fails itself.
    """
    _require_package()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = ["--usage", "training", "--ruleset", rules.version, "--quiet", str(log.absolute())]
        code, output = _check("compliance_checker", arguments, scratch)
    failed = parse_compliance(output)
    if (code == 0) != (not failed):
        raise _fault("compliance_checker", code, output)
    return failed


def parse_compliance(output: str) -> tuple[Miss, ...]:
    """Return the failed rules of a compliance checker's output; one that names no key has the rule ``log``."""
    begun = output.rpartition("WARNING -  ")[2].partition("\nERROR - ")[0] if "WARNING -  " in output else ""
    messages = [message.strip() for message in re.split(r"\n-{30}\n", begun) if message.strip()]
    return tuple(_miss(message) for message in messages)


def rcp_test(logs: Sequence[Path], rules: Ruleset) -> tuple[bool, str]:
    """Tell whether runs converge no faster than MLPerf's reference convergence points allow, and in which words.

    The checker drops the fastest and the slowest run and holds the mean of the others against the point of their batch,
    or between two points. It allows one run that did not converge. Raises UsageError for another number of logs than
    the rules ask for, and without mlperf-logging.
    """
    if len(logs) != rules.runs:
        found = f"{rules.name} is decided by {rules.runs} runs, and these are {len(logs)}."
        raise UsageError(found, "Train again with other seeds.")
    _require_package()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch, "logs")
        place.mkdir()
        for number, log in enumerate(logs):
            shutil.copy(log, place / f"result_{number}.txt")
        arguments = ["--rcp_usage", "training", "--rcp_version", rules.version, str(place)]
        code, output = _check("rcp_checker", arguments, scratch)
    told = re.search(r"^(?:INFO|ERROR) - (.*), RCP test (PASSED|FAILED)", output, re.MULTILINE)
    if told is None or (code == 0) != (told[2] == "PASSED"):
        raise _fault("rcp_checker", code, output)
    return code == 0, f"{rules.name}, reference convergence points: {_reasons(told[1], output)}. {UNOFFICIAL}"


def _reasons(message: str, output: str) -> str:
    mean = re.search(r"Submission mean epochs: ([\d.]+)", output)
    least = re.search(r"'Min Epochs': (?:np\.float64\()?([\d.]+)", output)
    if mean and least:
        message = f"{message}; mean {float(mean[1]):.2f} epochs to the target, at least {float(least[1]):.2f} allowed"
    return message


def _submission(rules: Ruleset, platform: str) -> dict[str, Any]:
    return {
        "submission_benchmark": BENCHMARK,
        "submission_division": rules.division,
        "submission_org": NO_SUBMITTER,
        "submission_platform": platform,
        "submission_status": "research",
        "cache_clear": False,
    }


def _hyperparameters(run: TrainingRun) -> dict[str, Any]:
    name, plan = NAMES[run.optimizer], run.plan
    warmup = "lars_opt_learning_rate_warmup_epochs" if name == "lars" else "opt_learning_rate_warmup_epochs"
    polynomial = {
        f"{name}_opt_learning_rate_decay_poly_power": plan.schedule.power,
        f"{name}_opt_learning_rate_decay_steps": plan.steps - plan.warmup_steps,
    }
    return {
        "seed": run.seed,
        "global_batch_size": run.global_batch,
        "gradient_accumulation_steps": run.accumulate,
        "model_bn_span": run.batch,
        "train_samples": run.train_images,
        "eval_samples": run.evaluations[0].images,
        "opt_name": name,
        f"{name}_opt_base_learning_rate": plan.peak,
        f"{name}_opt_end_learning_rate": end_rate(plan),
        **(polynomial if plan.schedule.decay == "polynomial" else {}),
        f"{name}_opt_weight_decay": run.weight_decay,
        f"{name}_opt_momentum": run.momentum,
        warmup: plan.schedule.warmup_epochs,
        **({"lars_epsilon": 0.0} if name == "lars" else {}),
    }


def _count(epochs: float) -> float:
    return int(epochs) if epochs == int(epochs) else epochs


def _check(checker: str, arguments: Sequence[str], scratch: str) -> tuple[int, str]:
    command = [sys.executable, "-m", f"mlperf_logging.{checker}", *arguments]
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise HarnessFault(f"MLPerf's {checker} did not end within {TIME_LIMIT_S:g} s.", "Try it by hand.") from None
    return done.returncode, done.stderr


def _miss(message: str) -> Miss:
    found = _KEYS.search(message)
    named = re.findall(r"\w+", found[found.lastgroup or 0].replace(" or ", " ")) if found else ["log"]
    test = re.search(r"^failed test: (.*)|^Failed executing CHECK code:\n(.*)", message, re.MULTILINE)
    rule = min(named)  # alternatives come in any order
    said = f"{rule}: {(test[1] or test[2]).strip()}" if test else message.splitlines()[0]
    return Miss(rule=rule, text=f"the compliance checker says {said!r}")


def _fault(checker: str, code: int, output: str) -> HarnessFault:
    last = output.strip().splitlines()[-1] if output.strip() else "nothing"
    return HarnessFault(f"MLPerf's {checker} ended with {code} and said {last!r}.", "Try it by hand.")


def _require_package() -> None:
    if importlib.util.find_spec("mlperf_logging") is None:
        message = "MLPerf's log and checks need the package 'mlperf-logging', which is not installed."
        raise UsageError(message, "pip install 'tf-conformance[mlperf]'")
