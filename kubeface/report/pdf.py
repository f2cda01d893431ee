"""The page on paper: printed by a browser without a window."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from kubeface.runtime.errors import KubefaceError, require

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 180  # the longest that a printing may take


def find_browser() -> str:
    """The path of the first of BROWSERS that is on PATH.

    Raises:
        KubefaceError: there is none.
    """
    found = next((path for path in map(shutil.which, BROWSERS) if path), "")
    require(
        bool(found),
        f"a PDF is printed by a browser and none of {', '.join(BROWSERS)} is on PATH: install one "
        "(apt-get install chromium), or print the HTML page from any browser",
    )
    return found


def print_pdf(browser: str, page: bytes, out: Path) -> None:
    """Prints a page, HTML that needs nothing beside it, to a PDF file by the program `browser`.

    Raises:
        KubefaceError: the browser failed or took too long; the error has its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        html = Path(folder) / "page.html"
        html.write_bytes(page)
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-pdf-header-footer",
            f"--user-data-dir={folder}/profile",
        ]
        if os.geteuid() == 0:
            # Chromium's sandbox refuses to run as root; the page has no script and its policy forbids any.
            command.append("--no-sandbox")
        command += [f"--print-to-pdf={out.absolute()}", html.as_uri()]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise KubefaceError(
                f"{browser} did not print the page in {SECONDS} s: print the HTML page by hand"
            ) from None
        words = [line for line in ended.stderr.splitlines() if line.strip()]
        require(
            ended.returncode == 0 and out.is_file() and out.stat().st_size > 0,
            f"{browser} could not print the page (exit code {ended.returncode}{': ' + words[-1] if words else ''}): "
            "print the HTML page by hand",
        )
