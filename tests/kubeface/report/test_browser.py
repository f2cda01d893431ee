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

CHECKS = Path(__file__).with_name("page_checks.js").read_text()


def found(page: Page | Frame, check: str) -> Any:
    """What a function of page_checks.js returns, as `faults()`."""
    return page.evaluate(f"({CHECKS}).{check}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium; none is ever downloaded."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on PATH: apt-get install chromium")
    # Chromium's sandbox refuses to run as root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=flags)
        yield launched
        launched.close()


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
    assert found(page, "brokenPictures()") == []
    for _ in range(2):
        assert found(page, "stickingOut()") == []
        assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0
        page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")


@pytest.mark.parametrize("width", WIDTHS)
def test_page_is_whole_quiet_and_readable(browser: Browser, written: Path, width: int) -> None:
    page, watch = opened(browser, written, width)
    assert_whole(page)
    assert found(page, "faults()") == []
    for scheme, background in BACKGROUNDS.items():
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
        assert found(page, "lowContrast()") == []
    assert watch.said == []
    assert [url for url in watch.asked if not url.startswith("data:")] == [written.as_uri()]
    page.close()


def test_page_fits_on_paper(browser: Browser, written: Path) -> None:
    page = browser.new_page(viewport={"width": PAPER, "height": 1000}, color_scheme="dark")
    page.emulate_media(media="print")
    page.goto(written.as_uri())
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    # What a screen scrolls, paper must hold; what a screen folds, paper must show.
    assert found(page, "stickingOut('svg')") == []
    assert page.evaluate(
        "[...document.querySelectorAll('details')].every(e => e.offsetHeight > e.firstElementChild.offsetHeight + 15)"
    )
    assert found(page, "lowContrast()") == []
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
        reached.append(found(page, "focused()"))
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
        "<body style='margin: 0'><iframe sandbox='allow-scripts' style='border: 0; width: 100%; height: 890px' "
        f'srcdoc="{source}">'
    )
    frame = page.frames[1]
    frame.wait_for_load_state()
    assert frame.locator("h2").count() > 5
    assert_whole(frame)
    target = frame.locator("nav a").last
    target.click()  # without the page's script the frame would be empty now
    assert frame.locator("h2").count() > 5
    part = frame.locator(f"[id='{str(target.get_attribute('href'))[1:]}']")
    assert frame.evaluate("window.scrollY") > 0 and part.is_visible()
    assert watch.said == []
    assert not [url for url in watch.asked if not url.startswith(("data:", "about:"))]
    page.close()
