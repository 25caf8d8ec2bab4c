"""The ready pipelines: their YAML is read, and their steps are run here with bash, on a stand-in of a stack.

Three things are not the real ones: the steps of GitHub's own actions (the cache is a copy of a directory), installing
(a directory of links to this interpreter), and the subjects, which answer at once with made-up times.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from comparison_examples import head, repeats, set_speed, speed_stand_in, write
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


NO_BASELINE = "::warning::no baseline: nothing was compared"
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
            output = self.clone.place / "output.txt"
            output.write_text("")
            told = {
                **self.job["env"],
                **env,
                **given,
                "GITHUB_STEP_SUMMARY": str(summary),
                "GITHUB_OUTPUT": str(output),
            }
            done = self.clone.bash(step["run"], told)
            printed += done.stdout + done.stderr
            if "id" in step:
                outcomes[f"steps.{step['id']}.outcome"] = "success" if done.returncode == 0 else "failure"
                for word, _, value in (line.partition("=") for line in output.read_text().splitlines()):
                    outcomes[f"steps.{step['id']}.outputs.{word}"] = value
            failed += [name] * (done.returncode != 0)
        return failed, printed

    def _wanted(self, condition: str, failed: list[str], outcomes: dict[str, str], event: str, accept: str) -> bool:
        if not condition:
            return not failed
        expression = (
            condition.strip()
            .removeprefix("${{")
            .removesuffix("}}")
            .strip()
            .replace("&&", " and ")
            .replace("||", " or ")
        )
        words = {
            "!cancelled()": "True",
            "success()": str(not failed),
            "github.event_name": repr(event),
            "inputs.accept": repr(accept),
            "steps.baseline.outcome": repr(outcomes.get("steps.baseline.outcome", "skipped")),
            "steps.judge.outputs.status": repr(outcomes.get("steps.judge.outputs.status", "")),
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
    assert NO_BASELINE in printed
    (first,) = [path.name for path in github.cache.glob("run-*")]

    failed, printed = github.run("pull_request", **GITHUB_ENV)
    assert failed == [], printed
    assert [one.verdict for one in clone.runs[0].comparisons] == ["same"] and NO_BASELINE not in printed, printed
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
    output = clone.place / "output.txt"
    done = clone.bash(judge, {**job["env"], **GITHUB_ENV, **wrong, "GITHUB_OUTPUT": str(output)})
    assert done.returncode == status and output.read_text() == f"status={status}\n"


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

    def run(**more: str) -> tuple[int, str]:
        done = clone.bash(gitlab_script(job), {**env, **more})
        return done.returncode, done.stdout

    status, printed = run(CI_PIPELINE_SOURCE="push")
    assert status == 0 and "no baseline: nothing was compared" in printed
    (first,) = [path.name for path in kept.glob("run-*")]
    assert list(ElementTree.parse(clone.project / job["artifacts"]["reports"]["junit"]).getroot().iter("testcase"))
    set_speed(clone.place, 0.02)
    status, printed = run(CI_PIPELINE_SOURCE="merge_request_event")
    assert status == 1 and "nothing was compared" not in printed
    assert [path.name for path in kept.glob("run-*")] == [first]
    assert "regressed" in (clone.project / "gate" / "summary.md").read_text()
    junit = (clone.project / "gate" / "junit.xml").read_text()
    assert 'failures="1"' in junit and "regressed" in junit
    assert run(CI_PIPELINE_SOURCE="web", ACCEPT="the new rounding is slower")[0] == 1
    (second,) = [path.name for path in kept.iterdir()]
    assert second != first and "slower" in (clone.project / "gate" / "accepted.txt").read_text()


class Pipeline:
    """Either template, whose pytest is a stand-in that leaves a run of these tests and an exit status."""

    def __init__(self, clone: Place, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.clone, self.name, self.job = clone, name, template(name, capsys)
        (clone.place / "no-page").touch()
        leave = 'mkdir gate\ncp -r "$LEFT" gate/\nexit "$STATUS"'
        (clone.project / ".venv" / "bin" / "pytest").write_text(f"#!/bin/sh\n{leave}\n")
        self.github = Github(clone, self.job["jobs"]["gate"]) if name == "github" else None
        self.kept = self.github.cache if self.github else clone.project / "baseline" / "release/1.0"
        self.kept.mkdir(parents=True)

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.kept.iterdir())

    def end(self, left: Path, status: int, accept: str = "") -> tuple[bool, str]:
        """Let a push end so; return whether the job is green, and what it printed."""
        env = {**GITHUB_ENV, "MAX_SLOWDOWN": "3%", "LEFT": str(left), "STATUS": str(status)}
        if self.github:
            failed, printed = self.github.run("workflow_dispatch" if accept else "push", accept, **env)
            return not failed, printed
        env = {**env, "BRANCH": "release/1.0", "CI_PIPELINE_SOURCE": "push", "ACCEPT": accept}
        done = self.clone.bash(gitlab_script(self.job["conformance"]), env)
        return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=["github", "gitlab"])
def pipeline(request: pytest.FixtureRequest, clone: Place, capsys: pytest.CaptureFixture[str]) -> Pipeline:
    return Pipeline(clone, request.param, capsys)


@pytest.mark.parametrize("status", [2, 3, 4, 5])
def test_a_session_that_did_not_judge_all_is_no_baseline_not_even_where_it_is_accepted(
    status: int, pipeline: Pipeline
) -> None:
    write(pipeline.kept, head("kept"), repeats(0.01, 3))
    before = pipeline.names
    half = pipeline.clone.place / "run-20261102-120000-half"
    half.mkdir()
    assert not pipeline.end(half, status, accept="it must be")[0]
    assert not pipeline.end(half / "nothing", status, accept="it must be")[0]
    assert pipeline.names == before


def test_small_steps_that_add_up_fail_the_job_until_they_are_accepted(pipeline: Pipeline) -> None:
    pytest.importorskip("ruptures")
    made = [
        write(pipeline.clone.place / "made", head("made", day), repeats(0.01 * 1.025 ** (day // 5), 3, 0.002, seed=day))
        for day in range(1, 16)
    ]
    greens = [pipeline.end(run, 0) for run in made[:1]]
    for run in made[1:12]:
        shutil.copytree(run, pipeline.kept / run.name)
    greens.append(pipeline.end(made[12], 0))
    assert not greens[-1][0] and "regressed, +2." in greens[-1][1], greens[-1]
    assert greens[0][0] and pipeline.names == [run.name for run in made[:13]]
    assert pipeline.end(made[13], 0, accept="the new rounding is slower")[0]
    assert pipeline.names == [made[13].name]
    assert pipeline.end(made[14], 0)[0] and pipeline.names == [run.name for run in made[13:]]


def test_thirty_runs_are_kept(pipeline: Pipeline) -> None:
    for day in range(1, 31):
        (pipeline.kept / head("kept", day).run).mkdir()
    oldest, *others = pipeline.names
    left = write(pipeline.clone.place / "made", head("left", 30), repeats(0.01, 3))
    pipeline.end(left, 0)
    assert pipeline.names == [*others, left.name]


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
        command = line.partition(" || ")[0].replace("$MAX_SLOWDOWN", GITHUB_ENV["MAX_SLOWDOWN"])
        make_parser().parse_args(shlex.split(command))
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
