"""Notify: posts the outcome of a run to a webhook."""

import json
import os
import time
from urllib.parse import urlsplit

import requests

from kubeface.notify.options import NotifyOptions
from kubeface.records.conclusion import ConclusionRecord, conclusion_uri
from kubeface.records.record import Record
from kubeface.runtime.errors import require
from kubeface.storage import objects

WEBHOOK = "KUBEFACE_WEBHOOK"  # environment variable; the address is a secret: whoever knows it may post
TIMEOUT_SECONDS = 10
ATTEMPTS = 3
PAUSE_SECONDS = 2.0


class NotifyResult(Record):
    """What was reported, and whether it was sent."""

    succeeded: bool
    """Whether the run succeeded."""
    sent: bool
    """Whether the webhook took the message."""
    text: str
    """The message."""


def notify(models: str, name: str, run: str, options: NotifyOptions = NotifyOptions()) -> NotifyResult:
    """Posts to a webhook whether a run succeeded and what it came to.

    A run has succeeded if its last step, report, has written the run's conclusion. The webhook gets JSON with `text`,
    as Slack's incoming webhooks take it (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks);
    Mattermost, Rocket.Chat and Google Chat take the same. Its address comes from the environment (KUBEFACE_WEBHOOK,
    from a secret) and is never printed; without it nothing is sent. A webhook that does not answer is a warning.

    Args:
        models: Where models are kept, s3://bucket/models or a folder.
        name: Name of the model.
        run: Identifier of the run.
        options: What the message holds.

    Raises:
        KubefaceError: the webhook's address is invalid, or the store of the models does not answer.
    """
    webhook = os.environ.get(WEBHOOK, "").strip()
    text, succeeded = message(models, name, run, options)
    print(f"notify: {text}", flush=True)
    if not webhook:
        print(f"notify: {WEBHOOK} is not set, so nothing is sent", flush=True)
        return NotifyResult(succeeded=succeeded, sent=False, text=text)
    _check(webhook)
    failure = _post(webhook, text)
    if failure:
        print(f"notify: the message was not sent: {failure}", flush=True)
    return NotifyResult(succeeded=succeeded, sent=not failure, text=text)


def message(models: str, name: str, run: str, options: NotifyOptions) -> tuple[str, bool]:
    """The message about a run, and whether the run succeeded."""
    title = options.title or run
    link = f" {options.ui.rstrip('/')}/#/runs/details/{run}" if options.ui else ""
    uri = conclusion_uri(models, name, run)
    if not objects.exists(uri):
        return f"{name}: run {title} failed.{link}", False
    conclusion = ConclusionRecord.parse(json.loads(objects.read_bytes(uri)), uri)
    model = f" Model: {conclusion.model}." if conclusion.model else ""
    return f"{name}: run {title} succeeded, {conclusion.verdict}: {conclusion.reason}.{model}{link}", True


def _check(webhook: str) -> None:
    """Refuses an invalid address, without printing it."""
    try:
        parts = urlsplit(webhook)
        valid = bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost"))
        )
    except ValueError:
        valid = False
    require(valid, f"{WEBHOOK} holds no https:// address: look at the secret that it comes from")


def _post(webhook: str, text: str) -> str:
    """Posts a text; returns why that failed, without the address, which requests' errors hold."""
    failure = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS * attempt)
        try:
            response = requests.post(webhook, json={"text": text}, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            failure = f"no answer ({type(error).__name__})"
            continue
        if response.status_code < 300:
            return ""
        failure = f"it answered {response.status_code}"
        if response.status_code != 429 and response.status_code < 500:
            break  # another attempt would not help
    return failure
