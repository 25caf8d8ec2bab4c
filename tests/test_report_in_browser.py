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
from report_examples import (
    accuracy,
    dated_runs,
    full_run,
    gaudi_run,
    header,
    large_run,
    scaled,
    second_run,
    side_by_side,
    speed,
    trained,
)

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
    learned = (
        msgspec.structs.replace(trained(kept, "fp32"), case="resnext101_32x4d-fp32-2-ranks-digits-mpirun-convergence"),
        trained(kept, "bf16"),
        scaled(),
        *(accuracy(precision, 0.7651, 0.9307) for precision in ("fp32", "bf16")),
        *(
            msgspec.structs.replace(speed("int8", "latency", 1, seconds), case=f"resnext101_32x4d-int8-on-4-{end}")
            for end, seconds in (("ranks-by-mpirun-without-a-host-file-smoke", 0.004), ("ranks-horovodrun-smoke", 0.04))
        ),
    )
    runs = {
        "one": [full_run()],
        "two": [msgspec.structs.replace(doubtful, records=records, directory=str(kept)), second_run()],
        "all": [
            msgspec.structs.replace(full_run(), records=learned, directory=str(kept)),
            side_by_side(),
            gaudi_run(),
            *dated_runs(),
        ],
        "large": [large_run(5000)],
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


@pytest.mark.parametrize("name", ["one", "two", "all", "large"])
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


@pytest.mark.parametrize("name", ["one", "two", "all"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_only_tables_scroll_sideways(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    show(browser, pages[name], width)
    open_all(browser)
    page, window = browser.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert page == window
    assert browser.execute_script("return document.querySelectorAll('.scroll').length") > 10


@pytest.mark.parametrize("name", ["two", "all"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_text_can_be_read(browser: Any, pages: dict[str, Path], name: str, scheme: str, width: int) -> None:
    show(browser, pages[name], width, scheme)
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


def test_charts_fill_their_place(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["one"], 390)
    charts = browser.execute_script(
        "const width = each => each.getBoundingClientRect().width;"
        "return [...document.querySelectorAll('figure svg')].map(each => [width(each), width(each.parentElement)])"
    )
    assert len(charts) == 7
    assert all(width == pytest.approx(place, abs=1) for width, place in charts)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_value_of_a_mark_shows_where_the_pointer_is_and_nowhere_else(
    browser: Any, pages: dict[str, Path], width: int
) -> None:
    from selenium.webdriver import ActionChains

    show(browser, pages["all"], width)
    charts = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')]"
        ".map(each => [...each.querySelectorAll('[aria-label]')].filter(mark => mark.tagName === 'path').at(-1))"
    )
    assert len(charts) > 8
    for mark in charts:
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
        ActionChains(browser).move_to_element(mark).perform()
        told, inside = browser.execute_script(
            "const tip = document.querySelector('.tip'), at = tip.getBoundingClientRect();"
            "return [tip.hidden ? '' : tip.textContent,"
            " at.left >= 0 && at.right <= document.documentElement.clientWidth && at.top >= 0]"
        )
        labels = browser.execute_script(
            "return [...arguments[0].ownerSVGElement.querySelectorAll(':not(g)[aria-label]')]"
            ".map(each => each.getAttribute('aria-label'))",
            mark,
        )
        assert told in labels
        assert inside
    ActionChains(browser).move_to_element(browser.find_element("css selector", "#speed h2")).perform()
    assert browser.execute_script("return document.querySelector('.tip').hidden") is True


def rows(browser: Any, column: int = 0, place: str = "#cases-judged") -> list[str]:
    """Return a column of a table as it stands there."""
    return browser.execute_script(
        "return [...document.querySelector(arguments[0] + ' tbody').rows].map(row =>"
        " (row.cells[arguments[1]]?.firstChild?.textContent ?? '').trim())",
        place,
        column,
    )


def choose(browser: Any, label: str, word: str) -> None:
    from selenium.webdriver.support.select import Select

    select = browser.find_element("xpath", f"//label[starts-with(normalize-space(.), '{label}')]/select")
    Select(select).select_by_visible_text(word)


def status(browser: Any) -> str:
    return browser.find_element("css selector", "[data-status]").text


def test_filters_leave_what_was_asked_for_and_say_how_much_that_is(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["two"])
    total = len(full_run().records) + 1 + 3 + 1 + len(second_run().records)
    assert status(browser) == f"{total} of {total} cases"
    choose(browser, "Verdict", "inside")
    choose(browser, "Precision", "int8")
    assert set(rows(browser, 3)) == {"inside"} and set(rows(browser, 2)) == {"int8"}
    choose(browser, "Stack", "tf215")
    assert set(rows(browser, 1)) == {"2"}
    assert status(browser) == f"{len(rows(browser))} of {total} cases"
    text = browser.find_element("css selector", ".filters input")
    text.send_keys("THROUGHPUT b128")
    assert rows(browser) == ["int8-throughput-b128"]
    text.send_keys(" nothing-like-it")
    assert rows(browser) == [] and status(browser) == f"0 of {total} cases"
    browser.find_element("css selector", "[data-reset]").click()
    assert len(rows(browser)) == total


def test_every_filter_has_a_label_and_none_offers_one_word_only(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["all"])
    found = browser.execute_script(
        "return [...document.querySelectorAll('.filters input, .filters select')].map(each =>"
        " [each.labels[0]?.firstChild.textContent.trim(), each.options ? each.options.length : 9])"
    )
    assert [label for label, _ in found] == ["Text", "Verdict", "Precision", "Mode", "Stack", "Profile"]
    assert all(options > 2 for _, options in found)


def press(browser: Any, place: str, head: str) -> None:
    """Sort a table by the keyboard: its head takes the focus, and Enter presses it."""
    from selenium.webdriver.common.keys import Keys

    button = browser.find_element("xpath", f"//*[@id='{place}']//th/button[normalize-space(.)='{head}']")
    browser.execute_script("arguments[0].focus()", button)
    browser.switch_to.active_element.send_keys(Keys.ENTER)


def by_numbers(case: str) -> list[tuple[int, str]]:
    """Return what sorts batch 16 before batch 128."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", case)]


def test_heads_sort_by_the_keyboard_and_tell_how(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["one"])
    told = (
        "return [...document.querySelectorAll('#cases-judged th[aria-sort]')]"
        ".map(each => [each.textContent, each.ariaSort])"
    )
    assert browser.execute_script(told) == []
    press(browser, "cases-judged", "Case")
    assert rows(browser) == sorted(rows(browser), key=by_numbers)
    assert browser.execute_script(told) == [["Case", "ascending"]]
    press(browser, "cases-judged", "Case")
    assert rows(browser) == sorted(rows(browser), key=by_numbers, reverse=True)
    press(browser, "cases-judged", "Verdict")
    gravest = ["invalid", "outside", "unstable", "not run", "unjudged", "inside"]
    assert list(dict.fromkeys(rows(browser, 2))) == gravest
    assert browser.execute_script(told) == [["Verdict", "ascending"]]
    outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "the focus can be seen"


def test_numbers_sort_as_numbers_and_what_is_published_stays_with_its_case(
    browser: Any, pages: dict[str, Path]
) -> None:
    show(browser, pages["one"])
    press(browser, "speed", "Median")
    shown = [float(text.split()[0].replace(",", "")) for text in rows(browser, 3, "#speed") if text]
    assert shown == sorted(shown) and len(shown) == 7 and shown[-1] > 100
    press(browser, "speed", "Median")
    after = rows(browser, 0, "#speed")
    place = next(n for n, text in enumerate(after) if text.startswith("Published, on the machine 2 sockets"))
    assert after[place - 1] == "fp32-throughput-b128"


def test_five_thousand_cases_open_within_two_seconds(browser: Any, pages: dict[str, Path]) -> None:
    assert pages["large"].stat().st_size < 3_000_000
    took = []
    for _ in range(3):
        show(browser, pages["large"])
        took.append(
            browser.execute_script(
                "document.body.getBoundingClientRect();"
                "return performance.getEntriesByType('navigation')[0].loadEventEnd"
            )
        )
    assert 0 < min(took) < 2000, took


def test_all_of_five_thousand_cases_can_be_found_sorted_and_shown(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["large"])
    assert len(rows(browser)) == 100 and status(browser) == "5,000 of 5,000 cases"
    more = browser.find_element("css selector", ".more-rows")
    assert more.text == "Show 100 more of 4,900"
    more.click()
    assert len(rows(browser)) == 200
    press(browser, "cases-judged", "Case")
    press(browser, "cases-judged", "Case")
    assert rows(browser)[0] == "fp32-latency-4999"
    choose(browser, "Verdict", "outside")
    choose(browser, "Stack", "tf")
    browser.find_element("css selector", ".filters input").send_keys("4950")
    assert rows(browser) == ["fp32-latency-4950"]
    cells = browser.execute_script(
        "return [...document.querySelector('#cases-judged tbody tr').cells].map(e => e.textContent)"
    )
    assert cells[2] == "outside" and cells[3].endswith("case 4950.")
    symbol = browser.execute_script("return document.querySelector('#cases-judged tbody use').getAttribute('href')")
    assert symbol == "#verdict-outside"


def test_a_row_beyond_the_first_says_as_much_as_they_do(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["large"])
    browser.find_element("css selector", ".filters input").send_keys("tf215 case 4999")
    cells = browser.execute_script(
        "return [...document.querySelector('#cases-judged tbody tr').cells].map(e => e.innerText.split('\\n'))"
    )
    assert cells[0] == ["fp32-latency-4999", "tf215"]
    assert cells[3] == [large_run(5000).records[4999].judgements[0].text]


def on_paper(browser: Any) -> str:
    """Return the sentence below the cases that is printed, or nothing."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    told = browser.find_element("css selector", "[data-cut]").text
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    return told


def test_paper_says_of_how_many_cases_it_has_the_first_and_which_were_asked_for(
    browser: Any, pages: dict[str, Path]
) -> None:
    show(browser, pages["large"])
    assert on_paper(browser) == "These are 100 of 5,000 cases."
    assert browser.find_element("css selector", "[data-cut]").text == "", "on the screen the filters say it"
    choose(browser, "Verdict", "inside")
    browser.find_element("css selector", ".filters input").send_keys("tf215")
    told = "verdict inside, the words \N{LEFT DOUBLE QUOTATION MARK}tf215\N{RIGHT DOUBLE QUOTATION MARK}"
    assert on_paper(browser) == f"These are 100 of 5,000 cases, of 2,500 with {told}."
    show(browser, pages["one"])
    assert on_paper(browser) == ""


def test_what_is_folded_is_unfolded_for_paper_and_folded_again(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["one"])
    browser.execute_script("document.querySelector('details.case').open = true")
    counted = "return [...document.querySelectorAll('details')].filter(each => !each.open).length"
    before = browser.execute_script(counted)
    assert before > 10
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(counted) == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(counted) == before
    assert browser.execute_script("return document.querySelector('details.case').open") is True


def tap(browser: Any, x: float, y: float) -> None:
    for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def tip(browser: Any) -> str | None:
    shown = "const tip = document.querySelector('.tip'); return tip.hidden ? null : tip.textContent"
    return browser.execute_script(shown)


def test_a_tap_shows_the_value_of_a_mark_until_escape_or_a_scroll(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, pages["one"], 390)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 1})
    try:
        label, x, y = browser.execute_script(
            "const mark = document.querySelector('#speed figure svg path[aria-label]');"
            "mark.scrollIntoView({block: 'center'}); const at = mark.getBoundingClientRect();"
            "return [mark.getAttribute('aria-label'), at.left + at.width / 2, at.top + at.height / 2]"
        )
        tap(browser, x, y)
        WebDriverWait(browser, 5).until(lambda browser: tip(browser) == label)
        ActionChains(browser).send_keys(Keys.ESCAPE).perform()
        assert tip(browser) is None
        tap(browser, x, y)
        WebDriverWait(browser, 5).until(lambda browser: tip(browser) == label)
        browser.execute_script("window.scrollBy(0, 300)")
        WebDriverWait(browser, 5).until(lambda browser: tip(browser) is None)
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_tables_that_scroll_take_the_focus_and_no_others(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    wrong = (
        "return [...document.querySelectorAll('.scroll')]"
        ".filter(each => each.scrollWidth > each.clientWidth !== (each.tabIndex === 0)).length"
    )
    reached = "return [...document.querySelectorAll('.scroll')].filter(each => each.tabIndex === 0).length"
    counts = []
    for width in (1280, 390):
        show(browser, pages["one"], width)
        open_all(browser)
        WebDriverWait(browser, 5).until(lambda browser: browser.execute_script(wrong) == 0)
        counts.append(browser.execute_script(reached))
    assert counts[0] < 4 < counts[1]
    show(browser, pages["one"], 1280)
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    WebDriverWait(browser, 5).until(lambda browser: browser.execute_script(reached) >= 4)


def test_hostile_cases_beyond_the_first_rows_stay_text(browser: Any, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)></script><script>alert(1)</script>"
    run = large_run(130)
    named = tuple(msgspec.structs.replace(r, case=f"{r.case}{hostile}", suite=hostile) for r in run.records)
    write_report([msgspec.structs.replace(run, records=named)], tmp_path / "hostile.html", None)
    browser.get_log("browser")
    show(browser, tmp_path / "hostile.html")
    browser.find_element("css selector", ".more-rows").click()
    assert len(rows(browser)) == 130 and all(text.endswith(hostile) for text in rows(browser))
    assert browser.execute_script("return document.querySelectorAll('main img').length") == 0
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [1100, 1200, 1280, 1700])
def test_no_table_of_a_section_is_cut_on_a_usual_screen(browser: Any, pages: dict[str, Path], width: int) -> None:
    show(browser, pages["all"], width)
    open_all(browser)
    cut = browser.execute_script(
        "return [...document.querySelectorAll('section:not(#cases, #provenance, #machine) .scroll')]"
        ".filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.ariaLabel)"
    )
    assert cut == []


# Texts of charts that leave their chart or stand on one another, and the smallest type.
_CHARTS = """
const left = [], met = [], sizes = [];
for (const svg of document.querySelectorAll('figure svg')) {
  const place = svg.parentElement.getBoundingClientRect();
  sizes.push(svg.getBoundingClientRect().width / svg.viewBox.baseVal.width * 13);
  const texts = [...svg.querySelectorAll('text')].filter(e => e.textContent.trim())
    .map(e => [e.textContent, e.getBoundingClientRect()]);
  texts.forEach(([text, a], i) => {
    if (a.right > place.right + 3 || a.left < place.left - 3) left.push(text);
    for (const [other, b] of texts.slice(i + 1))
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 4
          && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4) met.push(`${text} | ${other}`);
  });
}
return {left, met, sizes};
"""


@pytest.mark.parametrize("width", [390, 1100, 1280, 1700])
def test_no_text_of_a_chart_leaves_it_or_stands_on_another(browser: Any, pages: dict[str, Path], width: int) -> None:
    show(browser, pages["all"], width)
    open_all(browser)
    found = browser.execute_script(_CHARTS)
    assert len(found["sizes"]) > 8
    assert found["left"] == [] and found["met"] == []
    assert min(found["sizes"]) > (9 if width == 390 else 11.5)


def test_without_its_script_the_page_has_its_rows_and_no_dead_buttons(browser: Any, pages: dict[str, Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, pages["large"])
        seen = browser.execute_cdp_cmd(
            "Runtime.evaluate",
            {
                "expression": "[document.querySelectorAll('#cases-judged tbody tr').length,"
                " [...document.querySelectorAll('button, .filters')].filter(e => e.getClientRects().length).length,"
                " document.querySelector('[data-cut]').textContent]",
                "returnByValue": True,
            },
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert seen["result"]["value"] == [100, 0, "These are 100 of 5,000 cases."]


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
