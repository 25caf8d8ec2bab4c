"""Each case in full: why, every number, how it was started, from what, and where its logs are."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from conformance.records import Artefact, Launched, Record
from conformance.reports.entries import ABSENT, Entry, label, moment, shown
from conformance.reports.logs import Tail
from conformance.reports.tables import Cell, Row, Table, known, table, verdict_cell

_REPEATED = 6  # metrics in the table of repeats


class Launch(NamedTuple):
    """A command that can be copied into a shell, and where it ran."""

    command: str
    placement: str


class Detail(NamedTuple):
    """One case in full."""

    anchor: str
    case: str
    verdict: Cell
    about: str
    sentences: tuple[str, ...]
    tables: tuple[Table, ...]
    launches: tuple[Launch, ...]
    logs: tuple[Tail, ...]


def detail(entry: Entry, several: bool, logs: tuple[Tail, ...] = ()) -> Detail:
    record = entry.record
    about = [
        record.suite,
        record.model,
        record.mode,
        record.precision,
        record.dataset,
        record.stack,
        record.profile,
    ]
    about += [f"batch {record.batch_size}"] * (record.batch_size is not None) + [f"run {entry.run}"] * several
    about += [entry.changed] * bool(entry.changed)
    drawn = (_judgements(record), _metrics(record), _repeats(entry), _files(record))
    return Detail(
        anchor=entry.anchor,
        case=record.case,
        verdict=verdict_cell(record.verdict),
        about=" · ".join(about),
        sentences=_sentences(record),
        tables=tuple(table for table in drawn if table.rows),
        launches=tuple(Launch(shell_command(launched), _placement(launched)) for launched in record.launched),
        logs=logs,
    )


def shell_command(launched: Launched) -> str:
    """Return what a POSIX shell runs as the harness did: the variables set and unset, then the argv."""
    unset = [f"-u {shlex.quote(name)}" for name, value in launched.env.items() if value is None]
    assigned = [shlex.quote(f"{name}={value}") for name, value in launched.env.items() if value is not None]
    environment = ["env", *unset, *assigned] if launched.env else []
    words = [
        *([" ".join(environment[:1])] if environment else []),
        *environment[1:],
        shlex.join(launched.argv),
    ]
    return " \\\n  ".join(words)


def spans(numbers: Iterable[int]) -> str:
    """
    >>> spans([0, 1, 2, 3, 56, 58, 59])
    '0-3,56,58-59'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def size(count: int | None) -> str:
    """
    >>> size(102536550), size(512)
    ('97.8 MiB', '512 B')
    """
    if count is None:
        return ABSENT
    amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.0f} B" if units[0] == "B" else f"{amount:,.1f} {units[0]}"


def input_table(chosen: Sequence[Entry]) -> Table | None:
    """Return every input once, with its digest and how many cases drew from it."""
    users: dict[tuple[str, Artefact], int] = {}
    for entry in chosen:
        for role, artefact in entry.record.inputs.items():
            users[role, artefact] = users.get((role, artefact), 0) + 1
    rows = [
        Row((Cell(artefact.path, "code"), Cell(role), *_digest_cells(artefact), Cell(str(cases), "number")))
        for (role, artefact), cases in users.items()
    ]
    columns = ("Path", "As", "SHA-256", "Size", "Cases")
    return table("What was drawn from where", columns, rows) if rows else None


def _sentences(record: Record) -> tuple[str, ...]:
    series = Counter((len(series.step_s), series.warmup_steps, series.steady) for series in record.series)
    timed = [
        f"{f'{times} times ' if times > 1 else ''}{steps} steps timed after {warmup} warm-up steps"
        f"{'' if steady else ', which had not become steady'}."
        for (steps, warmup, steady), times in series.items()
    ]
    loaded = ["Loaded: " + ", ".join(f"{name} {version}" for name, version in record.loaded.items()) + "."]
    worker = [f"Ran on worker {record.worker}."] if record.worker else []
    took = f"Started at {record.started_at}, took {record.duration_s:,.1f} s. Claim: {record.source}."
    reason = [record.reason] if record.reason else []
    notes = (*reason, *record.hardware_differences, *record.notes)
    return (*notes, *timed, *loaded * bool(record.loaded), took, *worker)


def _judgements(record: Record) -> Table:
    rows = [
        Row(
            (
                Cell(label(j.metric)),
                verdict_cell(j.verdict),
                Cell(j.text, "sentence"),
                Cell(j.source or ABSENT, "quiet"),
            )
        )
        for j in record.judgements
    ]
    return table("Judgements", ("Metric", "Verdict", "In words", "Source of the band"), rows, stacked=True)


def _metrics(record: Record) -> Table:
    rows = []
    for metric in known(record.metrics):
        interval = record.intervals.get(metric)
        ends = " to ".join(shown(metric, end) for end in interval) if interval else ABSENT
        value = Cell(shown(metric, record.metrics[metric]), "number")
        rows.append(Row((Cell(label(metric)), value, Cell(ends, "number"), Cell(metric, "code"))))
    return table("Measured", ("Metric", "Value", "Interval", "Name in the record"), rows)


def _repeats(entry: Entry) -> Table:
    """Return a row for each repeat, with the metrics that are judged, and then others that differ between repeats."""
    judged = [judgement.metric for judgement in entry.record.judgements]
    varying = [name for name in known(entry.record.metrics) if len(set(entry.values(name))) > 1]
    metrics = [name for name in dict.fromkeys([*judged, *varying]) if name in varying][:_REPEATED]
    rows = [
        Row(
            (
                Cell(str(record.repeat), "number", key=record.repeat),
                Cell(moment(record.started_at)),
                *(Cell(shown(name, value := record.metrics.get(name)), "number", key=value) for name in metrics),
                verdict_cell(record.verdict),
            )
        )
        for record in entry.repeats[1:] and entry.repeats
    ]
    columns = ("Repeat", "Started", *(label(name) for name in metrics), "Verdict")
    return table("Each repeat", columns, rows, sortable=True)


def _files(record: Record) -> Table:
    rows = [
        Row((Cell(role), Cell(artefact.path, "code"), *_digest_cells(artefact)))
        for role, artefact in (*record.inputs.items(), *record.artefacts.items())
    ]
    return table("Files: inputs, logs and artefacts", ("What", "Path", "SHA-256", "Size"), rows)


def _digest_cells(artefact: Artefact) -> tuple[Cell, Cell]:
    return Cell(artefact.sha256 or ABSENT, "code digest"), Cell(size(artefact.bytes), "number")


def _placement(launched: Launched) -> str:
    cpus = f"CPUs {spans(launched.cpus)}" if launched.cpus else "no CPU binding"
    nodes = f"memory of node {spans(launched.memory_nodes)}" if launched.memory_nodes else "no memory binding"
    threads = f"{launched.inter_op_threads} inter-op and {launched.intra_op_threads} intra-op threads"
    return f"{cpus}; {nodes}; {threads}."
