"""What a run came to, kept beside its models."""

from pathlib import Path

import pytest

from kubeface.records.conclusion import ConclusionRecord
from kubeface.records.promotion import PromotionRecord
from kubeface.report.conclusion import conclude
from tests.support.report_runs import PROMOTED, make_run

LOST = PromotionRecord(producer="promote 0.1.0", promoted=False, reason="s3://b/models/door/2e is the champion")
KEPT = PROMOTED.model_copy(update={"promoted": False, "trained": False, "reason": "this model is in force already"})


@pytest.mark.parametrize(
    ("promotion", "verdict"), [(PROMOTED, "promoted"), (LOST, "not promoted"), (KEPT, "not trained")]
)
def test_a_run_leaves_its_verdict_beside_its_models(tmp_path: Path, promotion: PromotionRecord, verdict: str) -> None:
    run = make_run(tmp_path, promotion=promotion)
    run.report()
    for _ in range(2):  # a second attempt of the step changes nothing
        conclusion = conclude(run.summary, "minio://b/report.html", str(tmp_path / "models"), "door", "7-a")
    assert conclusion == ConclusionRecord.read(tmp_path / "models" / "door" / "runs" / "7-a.json")
    assert (conclusion.verdict, conclusion.reason) == (verdict, promotion.reason)
    assert (conclusion.model, conclusion.report) == (promotion.uri or "", "minio://b/report.html")
