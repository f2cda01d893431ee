"""What a run came to, and what a webhook is told of it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from kubeface.notify import step
from kubeface.notify.step import WEBHOOK, conclude, conclusion_of, notify
from kubeface.runtime.errors import KubefaceError

SECRET = "T0AB/B1CD/x9y8z7"


class Webhook:
    """A webhook on loopback that answers with the next of `answers`, then 200."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.answers: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(outer.answers.pop(0) if outer.answers else 200)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    found = Webhook()
    threading.Thread(target=found.server.serve_forever, daemon=True).start()
    monkeypatch.setenv(WEBHOOK, f"http://127.0.0.1:{found.server.server_port}/services/{SECRET}\n")
    monkeypatch.setattr(step, "PAUSE_SECONDS", 0.0)
    yield found
    found.server.shutdown()
    found.server.server_close()


def left_by(folder: Path, summary: dict[str, Any]) -> str:
    """What report or keep hands out."""
    (folder / "summary.json").write_text(json.dumps(summary))
    return json.dumps({"summary": str(folder / "summary.json"), "html": "minio://b/report.html", "model": ""})


TRAINED = {"gate": {"promoted": True, "reason": "AUC rose by 0.02"}, "model": {"uri": "s3://b/models/door/1f"}}
REFUSED = {"gate": {"promoted": False, "reason": "AUC fell"}, "model": {"uri": None}}
KEPT = {"trained": False, "reason": "not trained: nothing is new", "model": {"uri": "s3://b/models/door/1f"}}


@pytest.mark.parametrize(
    ("summary", "verdict", "reason", "model"),
    [
        (TRAINED, "promoted", "AUC rose by 0.02", "s3://b/models/door/1f"),
        (REFUSED, "not promoted", "AUC fell", ""),
        (KEPT, "not trained", "nothing is new", "s3://b/models/door/1f"),
    ],
)
def test_a_run_leaves_its_verdict_beside_its_models(
    tmp_path: Path, summary: dict[str, Any], verdict: str, reason: str, model: str
) -> None:
    for _ in range(2):  # a second attempt of the step changes nothing
        told = conclude(left_by(tmp_path, summary), str(tmp_path / "models"), "door", "7-a")
    assert told == {"verdict": verdict, "reason": reason, "model": model, "report": "minio://b/report.html"}
    assert json.loads((tmp_path / "models" / "door" / "runs" / "7-a.json").read_text()) == told


def test_success_is_told_with_verdict_model_and_link(tmp_path: Path, webhook: Webhook) -> None:
    conclude(left_by(tmp_path, TRAINED), str(tmp_path), "door", "7-a")
    told = notify(str(tmp_path), "door", "7-a", title="weekly", ui="https://kfp.example/")
    assert told["succeeded"] and told["sent"]
    text = (
        "door: run weekly succeeded, promoted: AUC rose by 0.02. Model: s3://b/models/door/1f. "
        "https://kfp.example/#/runs/details/7-a"
    )
    assert webhook.told == [{"text": text}]


def test_a_run_without_conclusion_has_failed(tmp_path: Path, webhook: Webhook) -> None:
    conclude(left_by(tmp_path, TRAINED), str(tmp_path), "door", "6")
    assert not notify(str(tmp_path), "door", "7")["succeeded"]
    assert webhook.told == [{"text": "door: run 7 failed."}]


def test_without_webhook_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEBHOOK, raising=False)
    assert notify(str(tmp_path), "door", "7") == {"succeeded": False, "sent": False, "text": "door: run 7 failed."}


@pytest.mark.parametrize(
    ("answers", "asked", "sent"), [([503, 429], 3, True), ([500] * 3, 3, False), ([404], 1, False), ([302], 1, False)]
)
def test_a_webhook_is_asked_again_where_that_may_help(
    tmp_path: Path, webhook: Webhook, capfd: pytest.CaptureFixture[str], answers: list[int], asked: int, sent: bool
) -> None:
    webhook.answers = answers.copy()
    assert notify(str(tmp_path), "door", "7")["sent"] == sent
    assert len(webhook.told) == asked
    shown = "".join(capfd.readouterr())
    assert ("the webhook was not told: it answered" in shown) != sent
    assert "services" not in shown and SECRET not in shown


def test_a_webhook_that_is_away_changes_nothing_and_its_address_is_not_told(
    tmp_path: Path, webhook: Webhook, capfd: pytest.CaptureFixture[str]
) -> None:
    webhook.server.shutdown()
    webhook.server.server_close()
    assert not notify(str(tmp_path), "door", "7")["sent"]
    shown = "".join(capfd.readouterr())
    assert "no answer (ConnectionError)" in shown and "services" not in shown and SECRET not in shown


@pytest.mark.parametrize(
    "address", [f"http://hooks.example/{SECRET}", f"hooks.example/{SECRET}", f"https://[/{SECRET}"]
)
def test_an_address_that_is_none_is_refused_and_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv(WEBHOOK, address)
    with pytest.raises(KubefaceError, match=f"{WEBHOOK} holds no https:// address") as caught:
        notify(str(tmp_path), "door", "7")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("name", "run"), [("../door", "7"), ("door", "../7"), ("door", "")])
def test_a_conclusion_lies_below_its_model(name: str, run: str) -> None:
    with pytest.raises(KubefaceError, match="use letters"):
        conclusion_of("s3://b/models", name, run)
