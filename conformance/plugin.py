"""pytest's hooks, each a line or two over what can be tested without pytest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from conformance.cases import Case, load_cases
from conformance.errors import ConformanceError, HarnessFault
from conformance.fixtures import terminal
from conformance.fixtures.device import refuse_without_hpu
from conformance.fixtures.floors import check_floors
from conformance.fixtures.options import OPTIONS, check_device, check_ranks, destination, parsed
from conformance.fixtures.session import SESSION, Session
from conformance.fixtures.side_by_side import more_than_once, take_turns
from conformance.records.run_file import run_name

pytest_plugins = ["conformance.fixtures.requested"]

TALLY = pytest.StashKey[terminal.Tally]()
RUN = "conformance_run"

MARKERS = {
    "fp32": "cases in fp32",
    "bf16": "cases in bf16",
    "int8": "cases in int8",
    "accuracy": "top-1 and top-5 over a whole validation split",
    "throughput": "batch inference, images/s",
    "latency": "online inference, one image at a time",
    "speedup": "a precision against fp32 in one process",
    "training": "trains a network",
    "smoke": "training for a hundred steps or more: does the loss fall?",
    "convergence": "training to an accuracy, on images that are at hand",
    "documented": "training as long as the recipe says, on ImageNet",
    "gaudi": "the recipe's machine has HPUs; --device cpu runs it on a CPU all the same",
    "profiler": "profiles some steps of training",
    "ranks": "trained by several ranks",
    "slow": "takes long, or more than this machine has; leave it out with -m 'not slow'",
    "imagenet": "needs ImageNet (--data-location) and a trained graph (--in-graph)",
    "digits": "the embedded default, handwritten digits",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "TensorFlow image models: is it right, is it fast?")
    for flag, text, extra in OPTIONS:
        group.addoption(flag, dest=destination(flag), help=text, **extra)


def pytest_configure(config: pytest.Config) -> None:
    for marker, text in MARKERS.items():
        config.addinivalue_line("markers", f"{marker}: {text}")
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    try:
        options = msgspec.structs.replace(parsed(config), strict=asked_strictly(config))
        terminal.check_marker_expression(config.getoption("markexpr", ""), config.getini("markers"))
        terminal.check_parallel(config)
    except ConformanceError as error:
        raise pytest.UsageError(str(error)) from None
    run = worker[RUN] if worker else run_name(datetime.now())
    name = worker["workerid"] if worker else None
    command = ("pytest", *config.invocation_params.args)
    config.stash[SESSION] = session = Session(options, config.rootpath, command, run, name)
    config.stash[TALLY] = tally = terminal.Tally()
    config.pluginmanager.register(tally, "conformance-tally")
    session.show, session.tell = terminal.progress(config), terminal.telling(config)
    if terminal.runs_suites(config):
        terminal.interrupt_on_sigterm()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist which run it belongs to."""
    node.workerinput[RUN] = node.config.stash[SESSION].run


def asked_strictly(config: pytest.Config) -> bool:
    """Tell whether --strict was given, which is pytest's own and no option of ours; newer ones keep it as an ini."""
    overridden = config.getoption("override_ini", None) or ()
    return bool(config.getoption("strict", False)) or "strict=true" in overridden


def runs_cases(config: pytest.Config) -> bool:
    return terminal.runs_suites(config) and not config.getoption("collectonly")


def pytest_report_header(config: pytest.Config) -> list[str]:
    return terminal.header(config.stash[SESSION]) if runs_cases(config) else []


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse a machine, a stack or a directory that is not as asked, before anything is collected."""
    worker = hasattr(session.config, "workerinput")  # what a worker would find, its controller found
    if runs_cases(session.config) and not worker:
        try:
            terminal.check(session.config.stash[SESSION])
        except ConformanceError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of every row of the table beside the test's file."""
    if "case" in metafunc.fixturenames:
        try:
            cases = load_cases(Path(metafunc.module.__file__).with_suffix(".toml"))
        except ConformanceError as error:  # a UsageError would be shown as a traceback here
            raise pytest.Collector.CollectError(str(error)) from None
        marked = [pytest.param(c, id=c.id, marks=[getattr(pytest.mark, m) for m in c.markers]) for c in cases]
        metafunc.parametrize("case", marked)


def case_of(item: pytest.Item) -> Case | None:
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("case") if callspec else None
    return case if isinstance(case, Case) else None


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With --plan, print the launches of the selected cases and run nothing."""
    state, cases = session.config.stash[SESSION], [case for case in map(case_of, session.items) if case]
    try:
        if not state.options.plan:
            if runs_cases(session.config) and state.worker is None:
                refuse_without_hpu(state, cases)
                check_floors(state, [(i.path.parent.name, c) for i in session.items if (c := case_of(i))])
            return None
        terminal.print_plan(state, cases, sys.stdout)
    except ConformanceError as error:
        raise pytest.UsageError(str(error)) from None
    return True


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Give a case that cannot be measured its record and its one sentence, without a traceback."""
    case = case_of(pyfuncitem)
    if case is None:
        return (yield)
    try:
        check_device(pyfuncitem.config.stash[SESSION].options, case)
        check_ranks(pyfuncitem.config.stash[SESSION].options, case)
        if more_than_once(pyfuncitem.config.stash[SESSION].options, case):
            pyfuncitem.obj = in_turns(pyfuncitem)
        return (yield)
    except ConformanceError as error:
        stopped = error
    finally:
        pyfuncitem.config.stash[SESSION].show("")
    try:
        judge: Any = pyfuncitem.funcargs["judge"]
        judge.stopped(stopped)
    except HarnessFault as fault:
        stopped = fault
    if isinstance(stopped, HarnessFault):  # pytest.exit would crash the controller of a worker
        pyfuncitem.user_properties.append(("fault", str(stopped)))
        pyfuncitem.session.shouldstop = stopped.message
        pytest.fail(str(stopped), pytrace=False)
    return None


def in_turns(item: pytest.Function) -> Callable[..., None]:
    """Return what stands in place of a test's function, to run it once for each repeat of each stack."""
    function = item.obj
    judge: Any = item.funcargs["judge"]

    def run(**given: object) -> None:
        take_turns(judge, function, given)

    return run


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, Any] | None:
    return config.stash[TALLY].status(report)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    state, tally = session.config.stash[SESSION], session.config.stash[TALLY]
    if state.worker is None and runs_cases(session.config) and not state.options.plan:
        session.exitstatus = terminal.finish(state, tally, int(exitstatus))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    terminal.summary(config.stash[SESSION], config.stash[TALLY], terminalreporter)
