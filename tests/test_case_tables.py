"""The tables of suites/ as data: every row can be selected, sourced and marked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from conformance.cases import Band, Case, Published, load_cases

ROOT = Path(__file__).parents[1]
TABLES = sorted((ROOT / "suites").rglob("*.toml"))
PROFILES = {path.stem for path in (ROOT / "hardware_profiles").glob("*.toml")}
IMAGENET_FLOORS = {"int8": 0.762, "fp32": 0.765, "bf16": 0.767}


def test_suites_have_tables() -> None:
    assert TABLES


def suite_of(path: Path) -> str:
    return path.relative_to(ROOT / "suites").parts[0]


@pytest.mark.parametrize("path", TABLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_table_is_in_order(path: Path) -> None:
    cases = load_cases(path)
    assert cases
    assert [complaint for case in cases for complaint in complaints(case)] == []


@pytest.mark.parametrize("suite", sorted({suite_of(path) for path in TABLES}))
def test_ids_are_unique_in_a_suite(suite: str) -> None:
    cases = [case for path in TABLES if suite_of(path) == suite for case in load_cases(path)]
    assert twice(case.id for case in cases) == []


def test_markers_are_registered(pytestconfig: pytest.Config) -> None:
    registered = {re.split(r"[:(]", line)[0].strip() for line in pytestconfig.getini("markers")}
    if "fp32" not in registered:
        pytest.skip("the plugin that registers the markers is not loaded")
    used = {marker for path in TABLES for case in load_cases(path) for marker in case.markers}
    assert used <= registered


def complaints(case: Case) -> list[str]:
    """Return what is wrong with a row, a sentence each."""
    found = [] if re.fullmatch(r"[a-z0-9_.-]+", case.id) else [f"{case.id!r} cannot be typed after -k"]
    found += [] if sourced(case.source) else [f"{case.id} has no source"]
    sources = [(row.metric, row.source) for row in case.band] + [(row.metric, row.source) for row in case.published]
    found += [f"{case.id} has no source for {metric}" for metric, source in sources if not sourced(source)]
    unknown = sorted({name for band in case.band for name in band.hw} - PROFILES)
    found += [f"{case.id} names the unknown profile {name!r}" for name in unknown]
    floors = [band.at_least for band in case.band if band.metric == "top1"]
    beside = [band for band in case.band if band.metric == "top1_of_fp32"]
    if (case.dataset, case.mode, beside) == ("imagenet", "accuracy", []) and floors != [
        IMAGENET_FLOORS[case.precision]
    ]:
        found.append(f"{case.id} has the top-1 floors {floors}, not {IMAGENET_FLOORS[case.precision]}")
    return found


def sourced(text: str) -> bool:
    return len(text.strip()) > 10


def twice(ids: Iterable[str]) -> list[str]:
    ids = list(ids)
    return sorted({name for name in ids if ids.count(name) > 1})


GOOD = Case(
    id="int8.imagenet_b-100",
    model="resnet50_v1_5",
    mode="accuracy",
    precision="int8",
    dataset="imagenet",
    batch_size=100,
    source="README, section on accuracy",
    band=(Band(metric="top1", at_least=0.762, source="README, section on accuracy", hw=("xeon-8s",)),),
    published=(Published(metric="top1", value=0.7623, machine="8280", source="README, table 1"),),
)


def test_a_good_row_has_no_complaint() -> None:
    assert complaints(GOOD) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"id": "int8 imagenet"}, "'int8 imagenet' cannot be typed after -k"),
        ({"id": "Int8"}, "'Int8' cannot be typed after -k"),
        ({"id": "a\n"}, "'a\\n' cannot be typed after -k"),
        ({"id": ""}, "'' cannot be typed after -k"),
        ({"id": "a", "source": "README    "}, "a has no source"),
        (
            {"id": "a", "published": (Published(metric="top1", value=0.5, machine="x", source="me"),)},
            "a has no source for top1",
        ),
        (
            {"id": "a", "band": (*GOOD.band, Band(metric="top5", at_least=0.5, source="README"))},
            "a has no source for top5",
        ),
        (
            {
                "id": "a",
                "band": (*GOOD.band, Band(metric="top5", at_least=0.5, source="x" * 11, hw=("xeon-9s",))),
            },
            "a names the unknown profile 'xeon-9s'",
        ),
        ({"id": "a", "precision": "fp32"}, "a has the top-1 floors [0.762], not 0.765"),
        ({"id": "a", "precision": "bf16"}, "a has the top-1 floors [0.762], not 0.767"),
        ({"id": "a", "band": ()}, "a has the top-1 floors [], not 0.762"),
    ],
)
def test_a_bad_row_is_complained_about(change: dict[str, object], complaint: str) -> None:
    assert complaints(msgspec.structs.replace(GOOD, **change)) == [complaint]


def test_an_id_that_stands_twice_is_found() -> None:
    assert twice(["a", "b", "a", "c", "c"]) == ["a", "c"]
