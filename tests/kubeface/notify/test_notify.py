"""What a webhook is told of a run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubeface.notify import step
from kubeface.notify.options import NotifyOptions
from kubeface.notify.step import WEBHOOK, NotifyResult, notify
from kubeface.records.conclusion import ConclusionRecord, conclusion_uri
from kubeface.runtime.errors import KubefaceError
from tests.support import servers

SECRET = "T0AB/B1CD/x9y8z7"


class Webhook:
    """A webhook on loopback that answers with the next of `answers`, then 200."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.answers: list[int] = []
        outer = self

        class Handler(servers.Handler):
            def do_POST(self) -> None:
                outer.told.append(json.loads(self.content()))
                self.answer(outer.answers.pop(0) if outer.answers else 200, Location="/elsewhere")

        self.server = servers.LoopbackServer(Handler)


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    found = Webhook()
    monkeypatch.setenv(WEBHOOK, f"{found.server.url}/services/{SECRET}\n")
    monkeypatch.setattr(step, "PAUSE_SECONDS", 0.0)
    with found.server:
        yield found


def conclude(models: Path, run: str) -> None:
    path = models / "door" / "runs" / f"{run}.json"
    path.parent.mkdir(parents=True)
    ConclusionRecord(
        verdict="promoted", reason="AUC rose by 0.02", model="s3://b/models/door/1f", report="minio://b/report.html"
    ).write(path)


def test_success_is_told_with_verdict_model_and_link(tmp_path: Path, webhook: Webhook) -> None:
    conclude(tmp_path, "7-a")
    result = notify(str(tmp_path), "door", "7-a", NotifyOptions(title="weekly", ui="https://kfp.example/"))
    assert result.succeeded and result.sent
    told = "door: run weekly succeeded, promoted: AUC rose by 0.02. Model: s3://b/models/door/1f."
    assert webhook.told == [{"text": f"{told} https://kfp.example/#/runs/details/7-a"}]


def test_a_run_without_conclusion_has_failed(tmp_path: Path, webhook: Webhook) -> None:
    conclude(tmp_path, "6")
    assert not notify(str(tmp_path), "door", "7").succeeded
    assert webhook.told == [{"text": "door: run 7 failed."}]


def test_without_webhook_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEBHOOK, raising=False)
    result = NotifyResult(succeeded=False, sent=False, text="door: run 7 failed.")
    assert notify(str(tmp_path), "door", "7") == result


@pytest.mark.parametrize(
    ("answers", "asked", "sent"), [([503, 429], 3, True), ([500] * 3, 3, False), ([404], 1, False), ([302], 1, False)]
)
def test_a_webhook_is_asked_again_where_that_may_help(
    tmp_path: Path, webhook: Webhook, capfd: pytest.CaptureFixture[str], answers: list[int], asked: int, sent: bool
) -> None:
    webhook.answers = answers.copy()
    assert notify(str(tmp_path), "door", "7").sent == sent
    assert len(webhook.told) == asked
    shown = "".join(capfd.readouterr())
    assert ("the message was not sent: it answered" in shown) != sent
    assert "services" not in shown and SECRET not in shown


def test_a_webhook_that_is_away_changes_nothing_and_its_address_is_not_told(
    tmp_path: Path, webhook: Webhook, capfd: pytest.CaptureFixture[str]
) -> None:
    webhook.server.server_close()
    assert not notify(str(tmp_path), "door", "7").sent
    shown = "".join(capfd.readouterr())
    assert "no answer (ConnectionError)" in shown and "services" not in shown and SECRET not in shown


@pytest.mark.parametrize(
    "address", [f"http://hooks.example/{SECRET}", f"hooks.example/{SECRET}", f"https://[/{SECRET}"]
)
def test_a_wrong_address_is_refused_and_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(WEBHOOK, address)
    with pytest.raises(KubefaceError, match=f"{WEBHOOK} holds no https:// address") as caught:
        notify(str(tmp_path), "door", "7")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("name", "run"), [("../door", "7"), ("door", "../7"), ("door", "")])
def test_a_conclusion_lies_below_its_model(name: str, run: str) -> None:
    with pytest.raises(KubefaceError, match="use letters"):
        conclusion_uri("s3://b/models", name, run)
