"""Report: the page and the figures of one run."""

from pathlib import Path

from kubeface.records.record import StepResult
from kubeface.report.options import ReportOptions
from kubeface.report.page import render
from kubeface.report.pdf import find_browser, print_pdf
from kubeface.report.run import RunOutputs, read_run
from kubeface.report.summary import summarise
from kubeface.storage.folders import new_file


class ReportResult(StepResult):
    """What report did: images ingested in, images evaluated out."""


def report(
    outputs: RunOutputs,
    html: Path,
    summary: Path,
    options: ReportOptions = ReportOptions(),
    pdf: Path | None = None,
) -> ReportResult:
    """Makes the report of a run: a self-contained page for people, and a JSON file of its figures for programs.

    The page holds its pictures and asks the network for nothing. Apart from seconds, equal runs give equal files; the
    PDF also holds the time of its printing.

    Args:
        outputs: What the steps wrote.
        html: File to write the page to.
        summary: JSON file to write the figures to.
        options: What the report says of its run.
        pdf: File to print the page to; needs Chromium or Chrome on PATH.

    Raises:
        KubefaceError: a file is missing, corrupt or lacks a field, the folders are of several runs, or there is no
            browser to print with.
    """
    browser = find_browser() if pdf else ""  # before anything is written
    run = read_run(outputs, options)
    figures = summarise(run)
    # A file name that is not UTF-8 reaches the page as surrogates; it shows question marks for them.
    page = render(run, figures).encode("utf-8", "replace")
    with new_file(html) as file:
        file.write_bytes(page)
    if pdf:
        with new_file(pdf) as file:
            print_pdf(browser, page, file)
    with new_file(summary) as file:
        figures.write(file)
    return ReportResult(rows_in=run.data.images, rows_out=run.steps["evaluate"].rows_in)
