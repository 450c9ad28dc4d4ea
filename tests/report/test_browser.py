"""The HTML report in a real browser: what it asks for, what it says, whether it fits, how it reads without a mouse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecnn.artifact.run_folder import read_target_run
from edgecnn.recipe.load import load_recipe
from edgecnn.report.details import read_details
from edgecnn.report.write import write_report
from edgecnn.steps.report import report_of
from tests.fakes.browser import Browser, find_chromium
from tests.fakes.judged_run import HOSTILE, make_judged_run

pytestmark = [pytest.mark.browser, pytest.mark.cpu_s(60), pytest.mark.timeout(300)]

OVERFLOWING = """
[...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1
  && !e.closest(".scroll, pre") && getComputedStyle(e).display != "none").map(e => e.outerHTML.slice(0, 200))
"""
SMALLEST_TEXT = """
Math.min(...[...document.querySelectorAll("svg text")].filter(e => e.getBoundingClientRect().width > 0)
  .map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a))
"""
INK_ON_PAPER = """
(() => { const c = getComputedStyle(document.body); return [c.color, c.backgroundColor] })()
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with Browser(path) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with hostile names: it is for looking at too, with its screenshots beside it."""
    folder = tmp_path_factory.mktemp("page")
    out = make_judged_run(folder, networks=6, images=240, classes=12, names=HOSTILE)
    run, recipe = read_target_run(out / "cpu"), load_recipe(str(folder / "made-up.toml"))
    write_report(folder / "report.html", report_of(run, recipe), read_details(run))
    return folder / "report.html"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_and_asks_for_nothing(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.requests.clear()
    browser.said.clear()
    browser.open(page, width, dark=dark)
    for details in (False, True):
        browser.evaluate(f"for (const d of document.querySelectorAll('details')) d.open = {str(details).lower()}")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate(OVERFLOWING) == []
    assert browser.evaluate(SMALLEST_TEXT) >= 10, "pixels"
    ink, paper = (sum(map(int, c[4:-1].split(","))) for c in browser.evaluate(INK_ON_PAPER))
    assert (ink > paper) is dark
    assert browser.evaluate("document.images.length") > 5
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.evaluate("typeof hacked") == "undefined"
    assert {url.split(":")[0] for url in browser.requests} == {"file", "data"}
    assert sum(url.startswith("file:") for url in browser.requests) == 1
    assert browser.said == []
    browser.screenshot(page.with_name(f"report-{width}{'-dark' * dark}.png"))


def test_what_would_leave_the_page_is_refused_by_its_policy(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    browser.said.clear()
    picture = "i.onerror = () => r('refused'); i.src = 'http://127.0.0.1:9/x.png'"
    asked = f"new Promise(r => {{ const i = new Image(); {picture} }})"
    assert browser.evaluate(asked) == "refused"
    browser.evaluate("document.body.setAttribute('style', 'color: red')")
    browser.evaluate("document.body.appendChild(document.createElement('script')).textContent = 'hacked = 1'")
    assert browser.evaluate("typeof hacked") == "undefined"
    assert sum("Content Security Policy" in line for line in browser.said) == 3


def test_a_word_is_explained_where_the_keyboard_stands(browser: Browser, page: Path) -> None:
    browser.open(page, 390)
    shown = "getComputedStyle(document.activeElement, '::after').content"
    for _ in range(60):
        browser.press("Tab")
        if browser.evaluate("document.activeElement.tagName") == "ABBR":
            break
    said = browser.evaluate("document.activeElement.title")
    assert len(said) > 20
    assert said in browser.evaluate(shown)
    assert browser.evaluate("getComputedStyle(document.querySelector('abbr:not(:focus)'), '::after').content") == "none"
