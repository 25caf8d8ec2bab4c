"""Records as one tidy table: a row for each metric of each case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from conformance.records import Judgement, Record, Run, worst
from conformance.reports.entries import package_version
from conformance.stacks.compatibility import TENSORFLOWS

# Column -> pandas dtype, in the order of the CSV file.
COLUMNS = {
    "run": "str",
    "started_at": "str",  # of the case, ISO 8601
    "case": "str",
    "suite": "str",
    "model": "str",
    "mode": "str",
    "precision": "str",
    "dataset": "str",
    "batch_size": "Int64",
    "stack": "str",
    "profile": "str",
    "metric": "str",  # empty where the case has none: it did not run
    "value": "float64",  # empty where nothing finite was measured
    "unit": "str",  # empty for shares and ratios
    "interval_low": "float64",  # of the value's interval, where it has one
    "interval_high": "float64",
    "band": "str",  # empty where nothing judges the metric
    "band_source": "str",
    "verdict": "str",  # of this metric; empty where nothing judges it
    "case_verdict": "str",
    "reason": "str",
    "duration_s": "float64",
    "repeat": "Int64",  # from 1, of the case on its stack
    "stack_digest": "str",  # of all that the stack holds, empty where it is not known
    "tensorflow": "str",  # the version in the stack, empty where it is not known
    "machine": "str",  # the processor's name
}

_UNITS = {"_images_per_s": "images/s", "_flop_per_s": "FLOP/s", "_s": "s", "_bytes": "B"}

Value = str | float | int | None


def tidy(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row for each metric that was measured or judged, and one for a case without any."""
    rows = [row for run in runs for record in run.records for row in _rows(run, record)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def csv_text(frame: pd.DataFrame) -> str:
    """Return the table as CSV; floats are written so that they are read back exactly."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def unit(metric: str) -> str:
    """Return the unit that a metric's name ends in.

    >>> unit("achieved_flop_per_s"), unit("latency_p99_s"), unit("resident_growth_bytes"), unit("top1")
    ('FLOP/s', 's', 'B', '')
    """
    return next((unit for ending, unit in _UNITS.items() if metric.endswith(ending)), "")


def _rows(run: Run, record: Record) -> Iterator[dict[str, Value]]:
    case = _case_columns(run, record)
    judged = [judgement.metric for judgement in record.judgements]
    for metric in dict.fromkeys([*record.metrics, *judged]) or [""]:
        yield case | _metric_columns(record, metric)


def _case_columns(run: Run, record: Record) -> dict[str, Value]:
    return {
        "run": run.header.run,
        "started_at": record.started_at,
        "case": record.case,
        "suite": record.suite,
        "model": record.model,
        "mode": record.mode,
        "precision": record.precision,
        "dataset": record.dataset,
        "batch_size": record.batch_size,
        "stack": record.stack,
        "profile": record.profile,
        "case_verdict": record.verdict,
        "reason": record.reason,
        "duration_s": record.duration_s,
        "repeat": record.repeat,
        "stack_digest": record.stack_digest,
        "tensorflow": package_version(run.header.stacks.get(record.stack, {}), *TENSORFLOWS),
        "machine": str(run.header.host.get("model_name", "")),
    }


def _metric_columns(record: Record, metric: str) -> dict[str, Value]:
    low, high = record.intervals.get(metric, (None, None))
    return {
        "metric": metric,
        "value": record.metrics.get(metric),
        "unit": unit(metric),
        "interval_low": low,
        "interval_high": high,
    } | _judgement_columns([judgement for judgement in record.judgements if judgement.metric == metric])


def _judgement_columns(judgements: list[Judgement]) -> dict[str, Value]:
    return {
        "band": "; ".join(j.band for j in judgements if j.band),
        "band_source": "; ".join(dict.fromkeys(j.source for j in judgements if j.source)),
        "verdict": worst([j.verdict for j in judgements]) if judgements else "",
    }
