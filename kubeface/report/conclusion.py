"""The conclusion of a run: kept beside its models, for notify and for people."""

from pathlib import Path
from tempfile import TemporaryDirectory

from kubeface.records.conclusion import ConclusionRecord, conclusion_uri
from kubeface.records.summary import read_summary
from kubeface.storage import objects


def conclude(summary: Path, report: str, models: str, name: str, run: str) -> ConclusionRecord:
    """Writes what a run came to as `<models>/<name>/runs/<run>.json`: the sign that every step succeeded.

    `summary` is summary.json of the run, `report` the address of its page, `models` s3://bucket/models or a folder.

    Raises:
        KubefaceError: the summary cannot be read, or the file cannot be written.
    """
    figures = read_summary(summary)
    conclusion = ConclusionRecord(
        verdict=figures.verdict, reason=figures.gate.promotion_reason, model=figures.model.uri or "", report=report
    )
    with TemporaryDirectory() as scratch:
        conclusion.write(Path(scratch, "run.json"))
        objects.upload(Path(scratch, "run.json"), conclusion_uri(models, name, run))
    print(f"report: {conclusion.verdict}: {conclusion.reason}", flush=True)
    return conclusion
