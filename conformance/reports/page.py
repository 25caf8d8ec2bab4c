"""The page: one file that needs nothing else, with every string made here and laid out in the template."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from conformance.records import CHANGE_GRAVITY, ChangeVerdict, Run, Verdict
from conformance.reports import details, machine, tables
from conformance.reports.charts import (
    accuracy_charts,
    ceiling_charts,
    duration_table,
    speed_charts,
    speedup_charts,
    training_charts,
)
from conformance.reports.comparisons import comparisons
from conformance.reports.drawing import Figure
from conformance.reports.entries import DETAILED, Entry, counted_aloud, counts, entries, latest
from conformance.reports.flips import flips
from conformance.reports.history import Shifts, history
from conformance.reports.learning import WARMUP_STEPS, learning
from conformance.reports.logs import log_tails
from conformance.reports.published import published_table
from conformance.reports.scaling import scaling
from conformance.reports.verdicts import gravity, verdicts
from conformance.reports.versions import version_matrix


class Tally(NamedTuple):
    """How many cases or comparisons got one verdict."""

    verdict: str
    kind: str
    number: str
    empty: bool


class Part(NamedTuple):
    """Charts and the table of the same numbers; ``more`` has those that the table has no column for.

    ``title`` and ``anchor`` are those of a part of a section.
    """

    figures: list[Figure]
    table: tables.Table | None
    note: str
    more: tables.Table | None = None
    title: str = ""
    anchor: str = ""


def page(runs: Sequence[Run], shifts: Shifts | None = None) -> str:
    """Return the page of one run, or of several side by side, as HTML; ``shifts`` tells where levels changed."""
    environment = Environment(
        loader=PackageLoader("conformance.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_source(environment, name) for name in ("style.css", "script.js"))
    return environment.get_template("template.html.j2").render(
        style=Markup(style), script=Markup(script), script_digest=_digest(script), **_contents(runs, shifts or {})
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _digest(script: str) -> str:
    """Return by what the page's policy knows the one script that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _contents(runs: Sequence[Run], shifts: Shifts) -> dict[str, object]:
    listed = entries(runs)
    several = len(runs) > 1
    found = [entry.record.verdict for entry in listed]
    changes = [comparison.verdict for run in runs for comparison in run.comparisons]
    logs = log_tails(runs, listed)
    learnt = learning(runs, listed)
    return {
        "title": _title(runs),
        "sentence": f"{_cases(listed)}: {counted_aloud(found)}.",
        "gravity": gravity(),
        "tallies": _tallies(counts(found)),
        "changes": _tallies({verdict: changes.count(verdict) for verdict in CHANGE_GRAVITY}) if changes else [],
        "banners": machine.banners(runs),
        "facts": machine.facts(runs),
        "runs": machine.run_table(runs, listed) if several else None,
        "verdicts": verdicts(listed, several),
        "comparisons": comparisons(runs, listed),
        "versions": version_matrix(runs, listed),
        "accuracy": _part(accuracy_charts, tables.accuracy_table, listed, several),
        "flips": flips(runs, listed),
        "training": tables.training_table(listed, several),
        "learning": learnt,
        "scaling": scaling(listed, several),
        "speeds": _speeds(listed, several, learnt.timed if learnt else ()),
        "history": history(runs, listed, shifts),
        "published": published_table(listed),
        "kernels": tables.kernel_table(latest(listed, 1), several),
        "noise": tables.noise_table(listed, several),
        "hosts": machine.hosts(runs),
        "stacks": machine.stack_table(runs),
        "environment": machine.environment_table(runs),
        "origins": [
            (n, _name(n, run, several), machine.command(run), machine.origin(run))
            for n, run in enumerate(runs, start=1)
        ],
        "inputs": details.input_table(listed),
        "details_note": _details_note(len(listed)),
        "details": [details.detail(entry, several, logs.get(entry.anchor, ())) for entry in listed if entry.anchor],
    }


def _speeds(listed: Sequence[Entry], several: bool, timed: Sequence[Entry]) -> list[Part]:
    """Return the parts that there are; ``timed`` are trainings with the times of their steps."""
    parts = {
        "Throughput and latency": _part(speed_charts, tables.speed_table, listed, several, duration_table),
        "Speed-up over fp32": _part(speedup_charts, tables.speedup_table, listed, several),
        "Share of the ceiling": _part(ceiling_charts, tables.ceiling_table, listed, several),
        "Training speed": _training_speed(listed, several, timed),
    }
    return [part._replace(title=title, anchor=title.lower().replace(" ", "-")) for title, part in parts.items() if part]


def _training_speed(listed: Sequence[Entry], several: bool, timed: Sequence[Entry]) -> Part | None:
    """Return the speeds of trainings, and beneath them the time that each of their steps took."""
    drawn = latest(listed)
    figures = [*training_charts(drawn), *speed_charts(latest(timed))]
    note = f"Times are of steps with the wait for their images, the first {WARMUP_STEPS} left out." if timed else ""
    return (
        Part(figures, duration_table(timed, several), f"{note} {_of_many(drawn, listed)}".strip()) if figures else None
    )


def _of_many(drawn: Sequence[Entry], listed: Sequence[Entry]) -> str:
    return "The last two runs of each case are drawn; History has all." if len(drawn) < len(listed) else ""


def _part(
    draw: Callable[[Sequence[Entry]], list[Figure]],
    tabulate: Callable[[Sequence[Entry], bool], tables.Table | None],
    listed: Sequence[Entry],
    several: bool,
    tabulate_more: Callable[[Sequence[Entry], bool], tables.Table | None] | None = None,
) -> Part | None:
    table, drawn = tabulate(listed, several), latest(listed)
    if table is None:
        return None
    return Part(draw(drawn), table, _of_many(drawn, listed), tabulate_more(listed, several) if tabulate_more else None)


def _title(runs: Sequence[Run]) -> str:
    models = dict.fromkeys(record.model for run in runs for record in run.records)
    profiles = dict.fromkeys(run.header.profile for run in runs)
    return f"{', '.join(models)} on {', '.join(profiles)}"


def _name(number: int, run: Run, several: bool) -> str:
    return f"Run {number}: {run.header.run}" if several else run.header.run


def _cases(listed: Sequence[Entry]) -> str:
    repeats = sum(len(entry.repeats) for entry in listed)
    measured = f", measured {repeats:,} times in all" if repeats > len(listed) else ""
    return f"{len(listed):,} {'case' if len(listed) == 1 else 'cases'}{measured}"


def _details_note(cases: int) -> str:
    said = "Every number, the launches to copy, inputs and the ends of logs. Paths are relative to the run's directory."
    return (
        said if cases <= DETAILED else f"{said} These are {DETAILED} of {cases:,} cases, the gravest; the CSV has all."
    )


def _tallies(counted: Mapping[Verdict, int] | Mapping[ChangeVerdict, int]) -> list[Tally]:
    return [Tally(verdict, verdict.replace(" ", "-"), f"{count:,}", count == 0) for verdict, count in counted.items()]
