"""The page on paper."""

import re
import shutil
import stat
from pathlib import Path

import pytest

from kubeface.report.pdf import BROWSERS, find_browser, print_pdf
from kubeface.runtime.errors import KubefaceError
from tests.support.report_runs import make_run

needs_browser = pytest.mark.skipif(
    not any(map(shutil.which, BROWSERS)), reason=f"none of {', '.join(BROWSERS)} is on PATH: apt-get install chromium"
)


def pages_of(pdf: Path) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))


def program(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A shell script in a browser's place, the only program on PATH besides the system's."""
    path = folder / "chromium"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return str(path)


@needs_browser
def test_the_page_is_printed(tmp_path: Path) -> None:
    pdf = tmp_path / "out of # it" / "report.pdf"
    make_run(tmp_path, full=True, lfw=True).report(pdf=pdf)
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert pages_of(pdf) > 1
    assert [path.name for path in pdf.parent.iterdir()] == ["report.pdf"]


@needs_browser
def test_a_short_page_is_one_sheet(tmp_path: Path) -> None:
    print_pdf(find_browser(), "<!doctype html><title>short</title><p>Zażółć".encode(), tmp_path / "short.pdf")
    assert pages_of(tmp_path / "short.pdf") == 1


def test_without_a_browser_it_is_said_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        KubefaceError, match=r"none of chromium, .* is on PATH: install one \(apt-get install chromium\)"
    ):
        run.report(pdf=tmp_path / "out" / "report.pdf")
    assert not (tmp_path / "out").exists()
    run.report()  # needs none


def test_the_first_browser_on_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program(tmp_path, "exit 0", monkeypatch) == find_browser()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'cannot open display' >&2; exit 3", r"exit code 3: cannot open display"),
        ("exit 0", r"exit code 0\)"),  # says nothing and writes nothing
    ],
)
def test_a_browser_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str) -> None:
    run = make_run(tmp_path)
    program(tmp_path, script, monkeypatch)
    with pytest.raises(KubefaceError, match=words):
        run.report(pdf=tmp_path / "report.pdf")
    assert not list(tmp_path.glob("*report.pdf*"))


def test_a_browser_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeface.report.pdf.SECONDS", 0.2)
    with pytest.raises(KubefaceError, match="did not print the page"):
        print_pdf(program(tmp_path, "exec sleep 30", monkeypatch), b"<p>", tmp_path / "x.pdf")


@pytest.mark.parametrize(("user", "flagged"), [(0, True), (1000, False)])
def test_root_alone_has_no_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, flagged: bool) -> None:
    browser = program(tmp_path, f'echo "$@" > "{tmp_path}/said"; exit 1', monkeypatch)
    monkeypatch.setattr("os.geteuid", lambda: user)
    with pytest.raises(KubefaceError):
        print_pdf(browser, b"<p>", tmp_path / "x.pdf")
    assert ("--no-sandbox" in (tmp_path / "said").read_text()) is flagged
