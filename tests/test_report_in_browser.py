"""The page in a real browser: quiet, self-contained, readable on a phone, in the dark and on paper."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flip_examples import Data, answered
from report_examples import full_run, header, scaled, second_run

from conformance.reports import write_report

pytestmark = pytest.mark.outside

_BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
_DRIVER = shutil.which("chromedriver")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Text elements whose contrast with what is painted behind them is below WCAG AA.
_FAINT = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data; };
const light = c => { const [r, g, b] = [...c].slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = e => { for (; e; e = e.parentElement) {
  const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; } return rgba('white'); };
const faint = [];
let seen = 0;
for (const e of document.body.querySelectorAll('*')) {
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || e.closest('title')) continue;
  const style = getComputedStyle(e), svg = e instanceof SVGElement;
  if (!e.getClientRects().length) continue;
  const [a, b] = [light(rgba(svg ? style.fill : style.color)), light(behind(svg ? e.closest('figure') : e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  seen += 1;
  if (ratio < 4.5) faint.push(`${e.tagName} ${e.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return {faint, seen};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        _missing("selenium is not installed: pip install selenium")
    if not (_BROWSER and _DRIVER):
        _missing("no Chromium here: apt-get install --no-install-recommends chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(_BROWSER)
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(_DRIVER)))
    yield driver
    driver.quit()


def _missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"CI is set and {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("reports")
    doubtful = full_run(footer=None, header=header(hardware_differences=("1 socket instead of 8",)))
    long = msgspec.structs.replace(doubtful.records[0], case="fp32-" + "very-long-name-" * 12, reason="long" * 60)
    data, kept = Data(directory / "tfrecords", 60), directory / "run"
    wrong = {"fp32": [0, 1], "bf16": [0, 1], "int8": range(1, 50)}
    flipped = [answered(kept, data, precision, images) for precision, images in wrong.items()]
    records = (*doubtful.records, long, *flipped, scaled())
    runs = {
        "one": [full_run()],
        "two": [msgspec.structs.replace(doubtful, records=records, directory=str(kept)), second_run()],
    }
    for name, listed in runs.items():
        write_report(listed, directory / f"{name}.html", None)
    return {name: directory / f"{name}.html" for name in runs}


def show(browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(path.as_uri())


def open_all(browser: Any) -> None:
    browser.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true; })")


@pytest.mark.parametrize("name", ["one", "two"])
def test_the_page_is_quiet_and_asks_nobody_for_anything(browser: Any, pages: dict[str, Path], name: str) -> None:
    for log in ("browser", "performance"):
        browser.get_log(log)
    show(browser, pages[name])
    open_all(browser)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} == {pages[name].as_uri()}
    assert browser.get_log("browser") == []


def test_a_request_would_be_refused(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["one"])
    browser.get_log("browser")
    browser.execute_async_script(
        "const done = arguments[0], image = new Image();"
        "image.onerror = image.onload = () => done(); image.src = 'http://127.0.0.1:9/x.png'"
    )
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_only_tables_scroll_sideways(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    show(browser, pages[name], width)
    open_all(browser)
    page, window = browser.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert page == window
    assert browser.execute_script("return document.querySelectorAll('.scroll').length") > 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_text_can_be_read(browser: Any, pages: dict[str, Path], scheme: str, width: int) -> None:
    show(browser, pages["two"], width, scheme)
    open_all(browser)
    found = browser.execute_script(_FAINT)
    assert found["seen"] > 500
    assert found["faint"] == []


def test_dark_is_dark_and_light_is_light(browser: Any, pages: dict[str, Path]) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        show(browser, pages["one"], scheme=scheme)
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness[scheme] = sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
    assert brightness["light"] > 240
    assert brightness["dark"] < 40


def test_the_verdicts_come_before_the_charts(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["one"])
    sentence, verdicts, chart = browser.execute_script(
        "return ['.lead', '#verdicts table', 'figure']"
        ".map(place => document.querySelector(place).getBoundingClientRect().top)"
    )
    assert sentence < 300
    assert sentence < verdicts < chart


def test_every_verdict_has_a_symbol_and_a_word(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["one"])
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('#verdicts table .verdict')].map(each =>"
        " [each.textContent.trim(), each.querySelector('use').getBoundingClientRect().width])"
    )
    assert len(drawn) == len(full_run().records)
    assert {word for word, _ in drawn} == {"inside", "outside", "unjudged", "unstable", "invalid", "not run"}
    assert all(width > 5 for _, width in drawn)


def test_charts_fill_their_place_and_show_values_on_hovering(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["one"], 390)
    charts = browser.execute_script(
        "const width = each => each.getBoundingClientRect().width;"
        "return [...document.querySelectorAll('figure svg')].map(each =>"
        " [width(each), width(each.parentElement), each.querySelectorAll('[aria-label] > title').length])"
    )
    assert len(charts) == 7
    assert all(width == pytest.approx(place, abs=1) for width, place, _ in charts)
    assert all(titles for *_, titles in charts)


def test_pictures_of_flipped_images_are_drawn_with_their_pixels_to_be_seen(
    browser: Any, pages: dict[str, Path]
) -> None:
    show(browser, pages["two"], 390)
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.pictures img')].map(each =>"
        " [each.naturalWidth, each.getBoundingClientRect().width, getComputedStyle(each).imageRendering])"
    )
    assert len(drawn) == 24
    assert all(natural == 8 and width > 80 and rendering == "pixelated" for natural, width, rendering in drawn)


def test_a_case_named_in_a_table_opens_in_full(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["one"])
    browser.execute_script("document.querySelector('#verdicts tbody th a').click()")
    opened = browser.execute_script("return document.querySelector('details.case').open")
    assert opened is True


def test_printing_works_and_prints_what_is_folded(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["one"], scheme="dark")
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF-")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") > 5
    media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    paper, launches = browser.execute_script(
        "const seen = each => each.getBoundingClientRect().height > 10;"
        "return [getComputedStyle(document.body).backgroundColor,"
        " [...document.querySelectorAll('.case pre')].filter(seen).length]"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert paper == "rgb(255, 255, 255)"
    assert launches == sum(len(record.launched) for record in full_run().records)
