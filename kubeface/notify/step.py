"""Notify: what a run came to, kept beside its models, and told to a webhook."""

import json
import os
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import requests

from kubeface.runtime.errors import require
from kubeface.storage import objects
from kubeface.storage.folders import write_json

WEBHOOK = "KUBEFACE_WEBHOOK"  # variable of the environment; the address is a secret, whoever knows it may post
TIMEOUT_SECONDS = 10
ATTEMPTS = 3
PAUSE_SECONDS = 2.0


def conclude(left: str, models: str, name: str, run: str) -> dict[str, Any]:
    """Writes what a run came to, `<models>/<name>/runs/<run>.json`: there is such a file where every step succeeded.

    Args:
        left: Where the run's summary and report are, as JSON (summary, html, model).
        models: Where models are kept, s3://bucket/models or a folder.
        name: Name of the model.
        run: Identifier of the run.

    Returns:
        verdict (promoted, not promoted or not trained), reason, model (address of the promoted model, or empty) and
        report (address).

    Raises:
        KubefaceError: the summary cannot be read, or the file cannot be written.
    """
    found = json.loads(left)
    summary = json.loads(objects.read_bytes(found["summary"]))
    if summary.get("trained", True):
        verdict = "promoted" if summary["gate"]["promoted"] else "not promoted"
        reason = summary["gate"]["reason"]
    else:
        verdict, reason = "not trained", summary["reason"].removeprefix("not trained: ")
    told = {
        "verdict": verdict,
        "reason": reason,
        "model": (summary.get("model") or {}).get("uri") or "",
        "report": found["html"],
    }
    uri = conclusion_of(models, name, run)
    with TemporaryDirectory() as scratch:
        write_json(Path(scratch, "run.json"), told)
        objects.upload(Path(scratch, "run.json"), uri)
    print(f"notify: {verdict}: {reason}", flush=True)
    return told


def notify(models: str, name: str, run: str, title: str = "", ui: str = "") -> dict[str, Any]:
    """Tells a webhook whether a run succeeded and what it came to; does nothing where none is set.

    A run has succeeded if it left its conclusion, which its last step writes. What the webhook gets is JSON with
    `text`, as Slack's incoming webhooks take it (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks);
    Mattermost, Rocket.Chat and Google Chat take the same. Its address comes from the environment (KUBEFACE_WEBHOOK,
    from a secret) and is never told. A webhook that does not answer is a warning: it changes nothing of the run.

    Args:
        models: Where models are kept, s3://bucket/models or a folder.
        name: Name of the model.
        run: Identifier of the run.
        title: What people call the run; empty for its identifier.
        ui: Address of Kubeflow Pipelines' UI, for a link to the run; empty for none.

    Returns:
        succeeded, sent, and text.

    Raises:
        KubefaceError: the address of the webhook is none, or the store of the models does not answer.
    """
    webhook = os.environ.get(WEBHOOK, "").strip()
    text, succeeded = message(models, name, run, title or run, ui)
    print(f"notify: {text}", flush=True)
    if not webhook:
        print(f"notify: {WEBHOOK} is not set, so nobody is told", flush=True)
        return {"succeeded": succeeded, "sent": False, "text": text}
    _check(webhook)
    failure = _post(webhook, text)
    if failure:
        print(f"notify: the webhook was not told: {failure}", flush=True)
    return {"succeeded": succeeded, "sent": not failure, "text": text}


def message(models: str, name: str, run: str, title: str, ui: str = "") -> tuple[str, bool]:
    """What is to be told of a run, and whether it succeeded."""
    link = f" {ui.rstrip('/')}/#/runs/details/{run}" if ui else ""
    uri = conclusion_of(models, name, run)
    if not objects.exists(uri):
        return f"{name}: run {title} failed.{link}", False
    told = json.loads(objects.read_bytes(uri))
    model = f" Model: {told['model']}." if told["model"] else ""
    return f"{name}: run {title} succeeded, {told['verdict']}: {told['reason']}.{model}{link}", True


def conclusion_of(models: str, name: str, run: str) -> str:
    """Address of the file that a run leaves when it is done.

    Raises:
        KubefaceError: a name or a run that would lie elsewhere.
    """
    for what, value in (("name", name), ("run", run)):
        require(bool(re.fullmatch(r"[\w-]+", value)), f"{what} is '{value}': use letters, digits, - and _")
    require(bool(models), "models is empty: give s3://bucket/models or a folder")
    return objects.join(objects.join(models, name), f"runs/{run}.json")


def _check(webhook: str) -> None:
    """Refuses an address that is none, without telling it."""
    try:
        parts = urlsplit(webhook)
        good = bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost"))
        )
    except ValueError:
        good = False
    require(good, f"{WEBHOOK} holds no https:// address: look at the secret that it comes from")


def _post(webhook: str, text: str) -> str:
    """Sends a text; returns why it could not be sent, without the address, which requests' errors hold."""
    failure = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS * attempt)
        try:
            answer = requests.post(webhook, json={"text": text}, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            failure = f"no answer ({type(error).__name__})"
            continue
        if answer.status_code < 300:
            return ""
        failure = f"it answered {answer.status_code}"
        if answer.status_code != 429 and answer.status_code < 500:
            break  # asking again does not help
    return failure
