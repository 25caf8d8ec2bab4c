from __future__ import annotations

from pathlib import Path

import pytest

from conformance.cases import Band, load_cases
from conformance.cases.metrics import METRICS
from conformance.errors import UsageError

ROW = """
[[case]]
id = "int8-digits"
model = "resnet50_v1_5"
mode = "accuracy"
precision = "int8"
dataset = "digits"
batch_size = 32
source = "README of the recipe"
"""
BAND = '\n[[case.band]]\nmetric = "top1"\nsource = "README"\n'
KNOWN = ", ".join(sorted(METRICS))


def message(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        load_cases(path)
    return error.value.message


def test_a_row_becomes_a_case(tmp_path: Path) -> None:
    path = tmp_path / "cases.toml"
    path.write_text(ROW + BAND + 'at_least = 0.95\nhw = ["xeon-8s"]\n', encoding="utf-8")
    (case,) = load_cases(path)
    assert (case.id, case.batch_size, case.warmup_steps, case.time_limit_s) == ("int8-digits", 32, None, 3600)
    assert case.band == (Band(metric="top1", source="README", at_least=0.95, hw=("xeon-8s",)),)


@pytest.mark.parametrize(
    ("dataset", "markers"), [("digits", ("int8", "accuracy", "digits")), ("dummy", ("int8", "accuracy"))]
)
def test_a_case_is_marked_by_precision_mode_and_real_data(
    tmp_path: Path, dataset: str, markers: tuple[str, ...]
) -> None:
    path = tmp_path / "cases.toml"
    path.write_text(ROW.replace('"digits"', f'"{dataset}"'), encoding="utf-8")
    assert load_cases(path)[0].markers == markers


@pytest.mark.parametrize(
    ("limits", "low", "high", "words", "exact"),
    [
        ("at_least = 0.5", 0.5, float("inf"), "at least 0.5000", "at least 0.5"),
        ("at_most = 0.5", float("-inf"), 0.5, "at most 0.5000", "at most 0.5"),
        ("within = [0.25, 1]", 0.25, 1.0, "within 0.2500 to 1.0000", "within 0.25 to 1.0"),
        ("at_least = 0", 0.0, float("inf"), "at least 0.0000", "at least 0.0"),
    ],
)
def test_a_band_has_two_ends_and_words(
    tmp_path: Path, limits: str, low: float, high: float, words: str, exact: str
) -> None:
    path = tmp_path / "cases.toml"
    path.write_text(ROW + BAND + limits, encoding="utf-8")
    (band,) = load_cases(path)[0].band
    assert (band.low, band.high, str(band)) == (low, high, words)
    assert band.words(str) == exact


ONE_OF = "Band of 'top1' needs one of at_least, at_most, within."


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ("", f"case[0].band[0]: {ONE_OF}"),
        ("at_least = 0.1\nat_most = 0.2", f"case[0].band[0]: {ONE_OF}"),
        ("at_least = 0.0\nwithin = [0.1, 0.2]", f"case[0].band[0]: {ONE_OF}"),
        ("at_least = nan", "case[0].band[0]: Limit nan of 'top1' is not 0 to 1."),
        ("at_least = -inf", "case[0].band[0]: Limit -inf of 'top1' is not 0 to 1."),
        ("at_least = 76.2", "case[0].band[0]: Limit 76.2 of 'top1' is not 0 to 1."),
        ("within = [0.5, 1.5]", "case[0].band[0]: Limit 1.5 of 'top1' is not 0 to 1."),
        ("within = [0.9, 0.5]", "case[0].band[0]: Band of 'top1' is within 0.9 to 0.5, which is empty."),
        ("within = [0.9]", "case[0].band[0].within: Expected `array` of length 2, got 1."),
        ('at_least = "0.9"', "case[0].band[0].at_least = '0.9': Expected `float | null`, got `str`."),
        (
            "at_lest = 0.9",
            "case[0].band[0]: Unknown key 'at_lest' (did you mean 'at_least'?);"
            " known: at_least, at_most, hw, metric, source, within.",
        ),
    ],
)
def test_a_wrong_band_is_told(tmp_path: Path, limits: str, told: str) -> None:
    assert message(tmp_path / "cases.toml", ROW + BAND + limits) == f"cases.toml, {told}"


def test_a_band_without_a_source_is_told(tmp_path: Path) -> None:
    text = ROW + '\n[[case.band]]\nmetric = "top1"\nat_least = 0.9\n'
    expected = "cases.toml, case[0].band[0]: Object missing required field `source`."
    assert message(tmp_path / "cases.toml", text) == expected


def test_an_unknown_metric_is_told(tmp_path: Path) -> None:
    text = ROW + BAND.replace("top1", "top2") + "at_least = 0.9"
    expected = f"cases.toml, case[0].band[0]: Unknown metric 'top2' (did you mean 'top5'?); known: {KNOWN}."
    assert message(tmp_path / "cases.toml", text).replace("'top1'", "'top5'") == expected


PUBLISHED = '\n[[case.published]]\nmetric = "{}"\nvalue = {}\nmachine = "8280"\nsource = "README"\n'


@pytest.mark.parametrize(
    ("metric", "value", "told"),
    [
        ("latency_mean_s", "0.0", "Value 0.0 of 'latency_mean_s' is not above 0."),
        ("top1", "76.4", "Value 76.4 of 'top1' is not 0 to 1."),
        ("speed", "1.0", f"Unknown metric 'speed' (did you mean 'seeds'?); known: {KNOWN}."),
    ],
)
def test_a_wrong_published_figure_is_told(tmp_path: Path, metric: str, value: str, told: str) -> None:
    text = ROW + PUBLISHED.format(metric, value)
    assert message(tmp_path / "cases.toml", text) == f"cases.toml, case[0].published[0]: {told}"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("batch_size = 32", "batch_size = 0", "case[0].batch_size = 0: Expected `int` >= 1."),
        ('"int8"', '"int4"', "case[0].precision = 'int4': Invalid enum value 'int4'."),
        ("batch_size = 32", "", "case[0]: Object missing required field `batch_size`."),
    ],
)
def test_a_wrong_row_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert message(tmp_path / "cases.toml", ROW.replace(old, new)) == f"cases.toml, {told}"


def test_an_id_that_stands_twice_is_told(tmp_path: Path) -> None:
    assert message(tmp_path / "cases.toml", ROW + ROW) == "Case id 'int8-digits' stands twice in cases.toml."
