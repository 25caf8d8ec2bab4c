"""The ready pipelines: their YAML is read, and their steps are run here with bash, on a stand-in of a stack.

Three things are not the real ones: the steps of GitHub's own actions (the cache is a copy of a directory), installing
(a directory of links to this interpreter), and the subjects, which answer at once with made-up times.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from comparison_examples import head, repeats, set_speed, speed_stand_in
from session_examples import ROOT, ROW, environment, suites

from conformance.cli import main
from conformance.commands.ci import misses
from conformance.records import Run
from conformance.records.run_file import read_run

PAGE = " --html gate/report.html"
TABLE = f"""{ROW}warmup_steps = 1
steps = 1

  [[case.band]]
  metric = "native_share"
  at_least = 0.95
  source = "the claim of the case"
"""

yaml = pytest.importorskip("yaml")
pytest.importorskip("jinja2")
pytestmark = pytest.mark.outside


def template(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["ci", name]) == 0
    return yaml.safe_load(capsys.readouterr().out)


class Place(NamedTuple):
    """A clone with a suite of its own, whose ``.venv`` is this interpreter."""

    place: Path
    project: Path

    @property
    def runs(self) -> list[Run]:
        return [read_run(path) for path in sorted((self.project / "gate").glob("run-*"))]

    def bash(self, script: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a script as both runners do; the page, which takes seconds, is written of the first run only."""
        if (self.project / "gate" / "report.html").exists():
            (self.place / "no-page").touch()
        if (self.place / "no-page").exists():
            script = script.replace(PAGE, "")
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script], cwd=self.project,
            env=environment(self.place, PYTHONPATH=str(ROOT), **env), capture_output=True, text=True, timeout=120,
        )  # fmt: skip


@pytest.fixture
def clone(tmp_path: Path) -> Place:
    stack = speed_stand_in(tmp_path, 0.01)
    project = suites(tmp_path, TABLE)
    ini = project / "pytest.ini"
    ini.write_text(ini.read_text() + f" --hw generic-cpu --hw-mismatch run --stack {stack} -p no:cacheprovider\n")
    programs = project / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, module in (("pytest", "pytest"), ("conformance", "conformance.cli")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    return Place(tmp_path, project)


def texts(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for value in node.values() for text in texts(value)]
    return [text for value in node for text in texts(value)] if isinstance(node, list) else [str(node)]


GITHUB_ENV = {"SUITES": "suites/mine", "SELECT": "latency", "REPEATS": "5", "MAX_SLOWDOWN": "10%"}


class Github:
    """Runs the steps of the job as GitHub does: in order, each by its ``if``; a step that fails fails the job."""

    def __init__(self, clone: Place, job: dict[str, Any]) -> None:
        self.clone, self.job = clone, job
        self.cache: Path = clone.place / "cache-of-github"

    def run(self, event: str = "push", accept: str = "", **env: str) -> tuple[list[str], str]:
        """Return the names of the steps that failed, and all that was printed."""
        failed: list[str] = []
        outcomes: dict[str, str] = {}
        summary = self.clone.place / "summary.md"
        printed = ""
        subprocess.run(["rm", "-rf", "baseline"], cwd=self.clone.project, check=True)
        for step in self.job["steps"]:
            if not self._wanted(step.get("if", ""), failed, outcomes, event, accept):
                continue
            used, name = step.get("uses", ""), step.get("name", "")
            if used.startswith("actions/cache/restore@") and self.cache.exists():
                subprocess.run(["cp", "-r", self.cache, self.clone.project / step["with"]["path"]], check=True)
            if used.startswith("actions/cache/save@"):
                subprocess.run(["rm", "-rf", self.cache], check=True)
                subprocess.run(["cp", "-r", self.clone.project / step["with"]["path"], self.cache], check=True)
            if used.startswith("actions/upload-artifact@"):
                assert (self.clone.project / step["with"]["path"]).is_dir()
            if "run" not in step or name == "Install":
                continue
            given = {name: value.replace("${{ inputs.accept }}", accept) for name, value in step.get("env", {}).items()}
            told = {**self.job["env"], **env, **given, "GITHUB_STEP_SUMMARY": str(summary)}
            done = self.clone.bash(step["run"], told)
            printed += done.stdout + done.stderr
            outcomes[step.get("id", "")] = "success" if done.returncode == 0 else "failure"
            failed += [name] * (done.returncode != 0)
        return failed, printed

    def _wanted(self, condition: str, failed: list[str], outcomes: dict[str, str], event: str, accept: str) -> bool:
        if not condition:
            return not failed
        expression = condition.removeprefix("${{").removesuffix("}}").replace("&&", " and ").replace("||", " or ")
        words = {
            "!cancelled()": "True",
            "success()": str(not failed),
            "github.event_name": repr(event),
            "inputs.accept": repr(accept),
            "steps.baseline.outcome": repr(outcomes.get("baseline", "skipped")),
        }
        for word, value in words.items():
            expression = expression.replace(word, value)
        assert re.fullmatch(r"(True|False|and|or|==|!=|[()\s]|'[\w ]*')+", expression), condition
        return bool(eval(expression))  # noqa: S307  (only the words above are in it)


def test_the_steps_of_github_make_a_baseline_pass_beside_it_and_fail_where_it_is_slower(
    clone: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    github = Github(clone, template("github", capsys)["jobs"]["gate"])
    failed, printed = github.run(**GITHUB_ENV)
    assert failed == [], printed
    assert len(list(github.cache.glob("run-*"))) == 1 and not clone.runs[0].comparisons
    (first,) = [path.name for path in github.cache.glob("run-*")]

    failed, printed = github.run("pull_request", **GITHUB_ENV)
    assert failed == [], printed
    assert [one.verdict for one in clone.runs[0].comparisons] == ["same"], printed
    assert [path.name for path in github.cache.glob("run-*")] == [first]  # what is proposed is no baseline

    set_speed(clone.place, 0.02)
    failed, printed = github.run(**GITHUB_ENV)
    assert failed == ["Judge"], printed
    assert [one.verdict for one in clone.runs[0].comparisons] == ["regressed"]
    assert "::error title=mine mine%3A regressed::" in printed
    summary = (clone.place / "summary.md").read_text()
    assert "| regressed | mine<br>" in summary and summary.count("### run-") == 3
    assert [path.name for path in github.cache.glob("run-*")] == [first]

    failed, printed = github.run("workflow_dispatch", accept="the new rounding is slower", **GITHUB_ENV)
    assert failed == ["Judge"], printed
    (second,) = [path.name for path in github.cache.glob("run-*")]
    assert second != first and "because: the new rounding is slower" in (clone.place / "summary.md").read_text()


@pytest.mark.parametrize(("wrong", "status"), [({"SELECT": "accuracy"}, 5), ({"SELECT": "speed"}, 4)])
def test_a_gate_that_judges_nothing_or_asks_for_the_wrong_thing_fails_the_job(
    wrong: dict[str, str], status: int, clone: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    job = template("github", capsys)["jobs"]["gate"]
    (judge,) = [step["run"] for step in job["steps"] if step.get("name") == "Judge"]
    assert clone.bash(judge, {**job["env"], **GITHUB_ENV, **wrong}).returncode == status


def test_a_path_of_a_branch_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """What somebody else may name, a branch or a title, is in no script: only in the words of an action."""
    for step in template("github", capsys)["jobs"]["gate"]["steps"]:
        assert "${{" not in step.get("run", "")


def gitlab_script(job: dict[str, Any]) -> str:
    return "\n".join(job["script"])


def test_the_script_of_gitlab_does_the_same(clone: Place, capsys: pytest.CaptureFixture[str]) -> None:
    job = template("gitlab", capsys)["conformance"]
    env = {**{name: str(value) for name, value in job["variables"].items()}, **GITHUB_ENV, "BRANCH": "release/1.0"}
    kept = clone.project / job["cache"]["paths"][0] / "release/1.0"

    def run(**more: str) -> int:
        return clone.bash(gitlab_script(job), {**env, **more}).returncode

    assert run(CI_PIPELINE_SOURCE="push") == 0
    (first,) = [path.name for path in kept.glob("run-*")]
    assert ElementTree.parse(clone.project / job["artifacts"]["reports"]["junit"]).getroot().iter("testcase")
    set_speed(clone.place, 0.02)
    assert run(CI_PIPELINE_SOURCE="merge_request_event") == 1
    assert [path.name for path in kept.glob("run-*")] == [first]
    assert "regressed" in (clone.project / "gate" / "summary.md").read_text()
    junit = (clone.project / "gate" / "junit.xml").read_text()
    assert 'failures="1"' in junit and "regressed" in junit
    assert run(CI_PIPELINE_SOURCE="web", ACCEPT="the new rounding is slower") == 1
    assert [path.name for path in kept.glob("run-*")] != [first]


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_what_a_template_asks_of_pytest_and_of_conformance_exists(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from conformance.cli import make_parser
    from conformance.fixtures.options import OPTIONS

    known = {option.flag for option in OPTIONS} | {"--junitxml", "--quiet"}
    text = "\n".join(texts(template(name, capsys)))
    for option in re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", text):
        assert option in known or option in ("--md", "--html"), option
    for line in re.findall(r"bin/conformance (.*)", text):
        words = re.sub(r"gate/run-\*", "run", line).split()
        make_parser().parse_args(words)
    suites_named = re.findall(r"suites/\w+", text)
    assert suites_named and all((ROOT / suite).is_dir() for suite in suites_named)
    for extra in re.findall(r"\.\[([a-z,]+)\]", text)[0].split(","):
        assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def test_annotations_are_of_misses_once_and_are_escaped() -> None:
    bad = tuple(
        msgspec.structs.replace(r, case="a,b:c", verdict="outside", reason="5 % too slow\n::error::x")
        for r in repeats(0.01, 3)
    )
    noisy = tuple(msgspec.structs.replace(r, case="n", verdict="unstable", reason="busy") for r in repeats(0.01, 1))
    run = Run(directory="x", header=head("a"), records=(*bad, *noisy, *repeats(0.01, 2)), footer=None)
    assert list(misses(run)) == [
        "::error title=inference a%2Cb%3Ac%3A outside::5 %25 too slow%0A::error::x",
        "::warning title=inference n%3A unstable::busy",
    ]
    assert os.linesep not in "".join(misses(run))
