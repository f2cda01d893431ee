"""The page in a real browser: whole, quiet and usable, small and large, light and dark, alone and in a frame."""

import html
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Frame, Page, sync_playwright

from kubeface.report.pdf import BROWSERS
from tests.support.report_runs import make_run

WIDTHS = (390, 1440)
BACKGROUNDS: Mapping[Literal["light", "dark"], str] = {"light": "rgb(245, 246, 248)", "dark": "rgb(15, 18, 23)"}
PAPER = 703  # pixels between the margins of a printed page

STICKING_OUT = """() => [...document.querySelectorAll('body *')]
    .filter(e => !e.parentElement.closest('.scroll, svg'))
    .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 || e.getBoundingClientRect().left < -0.5)
    .map(e => `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 40)}`)"""

# WCAG 2.1, success criterion 1.4.3: contrast of text with what lies behind it.
LOW_CONTRAST = """() => {
    const parts = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = colour => parts(colour).slice(0, 3)
        .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = e => {
        for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            const alpha = parts(colour)[3];
            if (alpha === undefined || alpha === 1) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const texts = [...document.querySelectorAll('body *')]
        .filter(e => e.tagName !== 'title' && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
    if (texts.length < 100) return ['too little text was looked at'];
    return texts.map(e => {
        const style = getComputedStyle(e);
        const [a, b] = [light(e.closest('svg') ? style.fill : style.color), light(behind(e))];
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e];
    }).filter(([ratio]) => !(ratio >= 4.5)).map(([ratio, e]) => `${ratio.toFixed(2)} ${e.tagName} ${e.textContent}`);
}"""

FAULTS = """() => {
    const faults = [];
    const want = (right, e, what) => right || faults.push(`${what}: ${e.outerHTML.slice(0, 120)}`);
    const all = selector => [...document.querySelectorAll(selector)];
    let level = 0;
    for (const heading of all('h1, h2, h3, h4, h5, h6')) {
        const next = Number(heading.tagName[1]);
        want(next <= level + 1, heading, 'a level of headings is skipped');
        want(heading.textContent.trim(), heading, 'empty heading');
        level = next;
    }
    for (const name of ['h1', 'header', 'main', 'footer', 'nav'])
        want(all(name).length === 1, document.body, `one ${name} is wanted`);
    for (const e of all('img')) want(e.alt.trim(), e, 'picture without alternative text');
    for (const e of all('svg')) want(e.getAttribute('aria-hidden') === 'true'
        || e.getAttribute('role') === 'img' && e.getAttribute('aria-label').trim(), e, 'drawing without a label');
    for (const e of all('th')) want(['col', 'row', 'colgroup'].includes(e.scope), e, 'header without scope');
    for (const e of all('table')) want(e.querySelector('th'), e, 'table without headers');
    for (const e of all('[role=region], nav, section')) want(e.getAttribute('aria-label'), e, 'region without a name');
    for (const e of all('ul')) want([...e.children].every(c => c.tagName === 'LI'), e, 'list with other children');
    for (const e of all('a')) want(document.getElementById(e.hash.slice(1)), e, 'link to nothing');
    const ids = all('[id]').map(e => e.id);
    want(new Set(ids).size === ids.length, document.body, 'an id stands twice');
    want(document.documentElement.lang, document.documentElement, 'no language');
    want(document.title, document.head, 'no title');
    return faults;
}"""

BROKEN_PICTURES = "() => [...document.images].filter(e => !e.complete || !e.naturalWidth).map(e => e.alt)"
FOCUSED = """() => {
    const e = document.activeElement, style = getComputedStyle(e);
    return [e.getAttribute('href') ?? e.getAttribute('aria-label') ?? e.textContent.trim(),
            style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium; none is ever downloaded."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on PATH: apt-get install chromium")
    # Chromium's sandbox refuses to run as root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=flags)
        yield found
        found.close()


RUNS: dict[str, dict[str, Any]] = {
    "full": {"lfw": True, "full": True},
    "plain": {"lfw": True},
    "attributes": {"task": "attributes", "full": True, "labels": 40},
    "classes": {"task": "classes", "full": True, "identities": 21},
    "many classes": {"task": "classes", "full": True, "identities": 41},
}


@pytest.fixture(scope="module", params=list(RUNS))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every section, one of an evaluation that lacks what it may lack, and pages of the other tasks."""
    folder = tmp_path_factory.mktemp("run")
    run = make_run(folder, reject=True, **RUNS[request.param])
    run.report()
    return run.html


class Watch:
    """What a page says and asks for while it is open."""

    def __init__(self, page: Page) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))


def opened(browser: Browser, written: Path, width: int) -> tuple[Page, Watch]:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
    watch = Watch(page)
    page.goto(written.as_uri())
    return page, watch


def assert_whole(page: Page | Frame) -> None:
    """Every picture loads, and nothing sticks out, with all details open too."""
    assert page.evaluate("document.images.length") > 15
    assert page.evaluate(BROKEN_PICTURES) == []
    for _ in range(2):
        assert page.evaluate(STICKING_OUT) == []
        assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0
        page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")


@pytest.mark.parametrize("width", WIDTHS)
def test_page_is_whole_quiet_and_readable(browser: Browser, written: Path, width: int) -> None:
    page, watch = opened(browser, written, width)
    assert_whole(page)
    assert page.evaluate(FAULTS) == []
    for scheme, background in BACKGROUNDS.items():
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
        assert page.evaluate(LOW_CONTRAST) == []
    assert watch.said == []
    assert [url for url in watch.asked if not url.startswith("data:")] == [written.as_uri()]
    page.close()


def test_page_fits_on_paper(browser: Browser, written: Path) -> None:
    page = browser.new_page(viewport={"width": PAPER, "height": 1000}, color_scheme="dark")
    page.emulate_media(media="print")
    page.goto(written.as_uri())
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    # What a screen scrolls, paper must hold; what a screen folds, paper must show.
    assert page.evaluate(STICKING_OUT.replace(".scroll, svg", "svg")) == []
    assert page.evaluate(
        "[...document.querySelectorAll('details')].every(e => e.offsetHeight > e.firstElementChild.offsetHeight + 15)"
    )
    assert page.evaluate(LOW_CONTRAST) == []
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_page_is_used_with_the_keyboard(browser: Browser, written: Path, width: int) -> None:
    page, _ = opened(browser, written, width)
    wanted = page.evaluate("""() => [...document.querySelectorAll('nav a, .scroll, summary')]
        .filter(e => e.checkVisibility({contentVisibilityAuto: true}))
        .map(e => e.getAttribute('href') ?? e.getAttribute('aria-label') ?? e.textContent.trim())""")
    assert len(wanted) > 15
    reached = []
    for _ in range(len(wanted) + 1):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    assert [name for name, _ in reached] == ["#main", *wanted]
    assert all(visible for _, visible in reached)
    assert page.evaluate("document.querySelector('.skip').getBoundingClientRect().bottom") < 0
    page.evaluate("document.querySelector('.skip').focus()")
    assert page.evaluate("document.querySelector('.skip').getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.close()


def test_wide_tables_scroll_and_details_open_with_the_keyboard(browser: Browser, written: Path) -> None:
    page, _ = opened(browser, written, 390)
    page.locator(".scroll").first.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    for _ in range(100):  # the page's policy forbids what wait_for_function polls with
        if page.evaluate("document.activeElement.scrollLeft") > 0:
            break
        page.wait_for_timeout(50)
    assert page.evaluate("document.activeElement.scrollLeft") > 0
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open")
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_page_shows_in_the_sandboxed_frame_of_a_dashboard(browser: Browser, written: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    watch = Watch(page)
    source = html.escape(written.read_text("utf-8"), quote=True)
    page.set_content(
        f"<body style='margin: 0'><iframe sandbox style='border: 0; width: 100%; height: 890px' srcdoc=\"{source}\">"
    )
    frame = page.frames[1]
    frame.wait_for_load_state()
    assert frame.locator("h2").count() > 5
    assert_whole(frame)
    assert watch.said == []
    assert not [url for url in watch.asked if not url.startswith(("data:", "about:"))]
    page.close()
