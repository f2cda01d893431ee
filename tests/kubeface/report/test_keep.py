"""The end of a run that trains nothing."""

import json
from pathlib import Path

import pytest

from kubeface.report.keep import keep
from kubeface.runtime.errors import KubefaceError


def folders(root: Path) -> dict[str, Path]:
    """What gather and audit leave, as far as keep reads it."""
    drift = {"compared": True, "features": {"det_score": 0.01, "turn": 0.12}, "worst": "turn", "exceeded": False}
    told = {
        "gathered": {"images": 1234, "identities": 56},
        "audited": {"counts": {}, "drift": drift, "settings": {"max_drift": 0.25}},
    }
    for name, data in told.items():
        (root / name).mkdir()
        (root / name / "data.json").write_text(json.dumps(data))
    return {name: root / name for name in told}


@pytest.mark.parametrize("champion", ["", "s3://bucket/models/door/<b>1f"])
def test_page_and_summary_say_why_and_what_stays(tmp_path: Path, champion: str) -> None:
    html, summary = tmp_path / "out" / "report.html", tmp_path / "out" / "summary.json"
    figures = keep(**folders(tmp_path), html=html, summary=summary, champion=champion, seed=3)
    assert figures == {"rows_in": 1234, "rows_out": 0}
    told = json.loads(summary.read_text())
    assert told["trained"] is False and told["seed"] == 3
    assert told["reason"] == "not trained: turn drifted most since the last training, by 0.12, and max_drift is 0.25"
    assert told["model"]["uri"] == (champion or None)
    page = html.read_text()
    assert told["reason"] in page and "1,234 images of 56 people" in page and "<td>0.12</td>" in page
    assert "<b>" not in page and ("&lt;b&gt;1f" in page if champion else "No model has been promoted" in page)


def test_a_missing_audit_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    given = folders(tmp_path)
    (given["audited"] / "data.json").unlink()
    with pytest.raises(KubefaceError, match=r"audited/data\.json is missing"):
        keep(**given, html=tmp_path / "page.html", summary=tmp_path / "summary.json")
    assert not (tmp_path / "page.html").exists()
