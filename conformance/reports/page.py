"""The page: one file that needs nothing else, with every string made here and laid out in the template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from conformance.records import Run, Verdict
from conformance.reports import details, machine, tables
from conformance.reports.charts import Figure, accuracy_charts, ceiling_charts, speed_charts, speedup_charts
from conformance.reports.entries import DETAILED, Entry, counted_aloud, counts, entries
from conformance.reports.flips import flips
from conformance.reports.scaling import scaling


class Tally(NamedTuple):
    """How many cases got one verdict."""

    verdict: str
    kind: str
    number: str
    empty: bool


class Part(NamedTuple):
    """Charts and the table of the same numbers."""

    figures: list[Figure]
    table: tables.Table


def page(runs: Sequence[Run]) -> str:
    """Return the page of one run, or of several side by side, as HTML."""
    environment = Environment(
        loader=PackageLoader("conformance.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.loader.get_source(environment, "style.css")[0] if environment.loader else ""
    return environment.get_template("template.html.j2").render(style=Markup(style), **_contents(runs))


def _contents(runs: Sequence[Run]) -> dict[str, object]:
    listed = entries(runs)
    several = len(runs) > 1
    verdicts = [entry.record.verdict for entry in listed]
    return {
        "title": _title(runs),
        "sentence": f"{_cases(len(listed))}: {counted_aloud(verdicts)}.",
        "tallies": _tallies(verdicts),
        "banners": machine.banners(runs),
        "facts": machine.facts(runs),
        "runs": machine.run_table(runs) if several else None,
        "verdicts": tables.verdict_table(listed, several),
        "accuracy": _part(accuracy_charts, tables.accuracy_table, listed, several),
        "flips": flips(runs, listed),
        "training": tables.training_table(listed, several),
        "scaling": scaling(listed, several),
        "speeds": _speeds(listed, several),
        "kernels": tables.kernel_table(listed, several),
        "noise": tables.noise_table(listed, several),
        "hosts": [(_name(n, run, several), machine.host_facts(run)) for n, run in enumerate(runs, start=1)],
        "stacks": machine.stack_table(runs),
        "environment": machine.environment_table(runs),
        "origins": [
            (n, _name(n, run, several), machine.command(run), machine.origin(run))
            for n, run in enumerate(runs, start=1)
        ],
        "inputs": details.input_table(listed),
        "details_note": _details_note(len(listed)),
        "details": [details.detail(entry, several) for entry in listed if entry.anchor],
    }


def _speeds(listed: Sequence[Entry], several: bool) -> list[Part]:
    parts = (
        _part(speed_charts, tables.speed_table, listed, several),
        _part(speedup_charts, tables.speedup_table, listed, several),
        _part(ceiling_charts, tables.ceiling_table, listed, several),
    )
    return [part for part in parts if part]


def _part(
    draw: Callable[[Sequence[Entry]], list[Figure]],
    tabulate: Callable[[Sequence[Entry], bool], tables.Table | None],
    listed: Sequence[Entry],
    several: bool,
) -> Part | None:
    table = tabulate(listed, several)
    return Part(draw(listed), table) if table else None


def _title(runs: Sequence[Run]) -> str:
    models = dict.fromkeys(record.model for run in runs for record in run.records)
    profiles = dict.fromkeys(run.header.profile for run in runs)
    return f"{', '.join(models)} on {', '.join(profiles)}"


def _name(number: int, run: Run, several: bool) -> str:
    return f"Run {number}: {run.header.run}" if several else run.header.run


def _cases(number: int) -> str:
    return f"{number:,} case" if number == 1 else f"{number:,} cases"


def _details_note(cases: int) -> str:
    said = "Every number, the launches to copy, inputs and logs. Paths are relative to the run's directory."
    return (
        said if cases <= DETAILED else f"{said} These are {DETAILED} of {cases:,} cases, the gravest; the CSV has all."
    )


def _tallies(verdicts: Sequence[Verdict]) -> list[Tally]:
    return [
        Tally(verdict, verdict.replace(" ", "-"), f"{count:,}", count == 0)
        for verdict, count in counts(verdicts).items()
    ]
