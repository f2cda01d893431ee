"""A client of Kubeflow Pipelines: address and credentials from the environment, refusals as one clear line."""

import json
import os
import re
import select
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kfp
import kfp_server_api
import urllib3
from kfp.client import ServiceAccountTokenVolumeCredentials
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from kubeface.runtime.errors import KubefaceError
from pipelines.cluster.kubectl import Kubectl, one_line

CONNECT_SECONDS, READ_SECONDS, FORWARD_SECONDS = 5.0, 30.0, 20.0
BUSY = (408, 429, 502, 503, 504)  # answers of a server, or a proxy before it, that has no time
SERVICE, PORT = "ml-pipeline", 8888  # of KFP's API: manifests/kustomize/base/pipeline in kubeflow/pipelines
ACCOUNT_VARIABLE = "KFP_SERVICE_ACCOUNT"
RUNNER, TRAINER = "kubeface-runner", "kubeface-trainer"  # accounts of manifests/base
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")  # there in every pod that has an account


class Unreachable(KubefaceError):
    """Kubeflow Pipelines does not answer at this moment; another try may help."""


class Cluster(BaseModel):
    """Address and credentials of Kubeflow Pipelines; every field has a variable of the environment.

    Without a host it is the cluster's service if this runs in a pod, else a port that kubectl forwards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    # URL of the API, the one that ends in /pipeline behind Kubeflow's dashboard.
    host: str = Field(default="", validation_alias="KFP_HOST")
    # Of the runs, where KFP serves several (a profile's); and the one that KFP itself is installed in.
    namespace: str = Field(default="kubeface", validation_alias="KFP_NAMESPACE")
    system_namespace: str = Field(default="kubeflow", validation_alias="KFP_SYSTEM_NAMESPACE")
    token: SecretStr = Field(default=SecretStr(""), validation_alias="KFP_TOKEN")
    # name=value, as Dex's session in a browser.
    cookie: SecretStr = Field(default=SecretStr(""), validation_alias="KFP_COOKIE")
    # PEM file of the authority that signed the server's certificate.
    ca: str = Field(default="", validation_alias="KFP_CA")
    ui: str = Field(default="", validation_alias="KFP_UI")  # URL of the pages, where it is not the API's
    service_account: str = Field(default=RUNNER, validation_alias=ACCOUNT_VARIABLE)  # of the steps
    kubeconfig: str = Field(default="", validation_alias="KUBECONFIG")
    context: str = Field(default="", validation_alias="KUBE_CONTEXT")

    def account(self, nodes: int) -> str:
        """The service account of a run's steps: the one that is asked for, else the deployment's, of which only one
        may start the TrainJob that a training on several nodes is."""
        return self.service_account if nodes == 1 or "service_account" in self.model_fields_set else TRAINER

    @field_validator("host", "ui")
    @classmethod
    def _is_url(cls, text: str) -> str:
        parts = urlsplit(text)
        if text and (parts.scheme not in ("http", "https") or not parts.netloc):
            raise ValueError("write it as https://host/path")
        if parts.username or parts.password:
            raise ValueError("it carries a password: take it out, and give KFP_TOKEN or KFP_COOKIE")
        return text.rstrip("/")

    @field_validator("cookie")
    @classmethod
    def _is_name_and_value(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and "=" not in value.get_secret_value():
            raise ValueError("write it as name=value, as authservice_session=… or oauth2_proxy_kubeflow=…")
        return value

    @field_validator("ca")
    @classmethod
    def _exists(cls, path: str) -> str:
        if path and not Path(path).is_file():
            raise ValueError(f"{path} is not a file: name the authority's certificate in PEM")
        return path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Cluster":
        """The cluster that KFP_HOST and the other variables describe; those that are not set have their defaults.
        Raises KubefaceError if a variable cannot be used; it is named, its value is not shown."""
        variables = os.environ if environment is None else environment
        known = [str(field.validation_alias) for field in cls.model_fields.values()]
        given = {name: variables[name] for name in known if variables.get(name)}
        if variables.get(ACCOUNT_VARIABLE) == "":  # KFP's own account
            given[ACCOUNT_VARIABLE] = ""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            raise KubefaceError(f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None

    def kubectl(self) -> Kubectl:
        """kubectl for this cluster."""
        return Kubectl(self.context, {"KUBECONFIG": self.kubeconfig} if self.kubeconfig else {})

    def page(self, path: str) -> str:
        """Address of a page of the UI, for a path such as `runs/details/<id>`, with the port to forward if need be."""
        if self.ui or self.host:
            return f"{self.ui or self.host}/#/{path}"
        return (
            f"http://localhost:8080/#/{path} after "
            f"kubectl -n {self.system_namespace} port-forward svc/ml-pipeline-ui 8080:80"
        )

    def run_page(self, run: str) -> str:
        """Address of a run's page."""
        return self.page(f"runs/details/{run}")

    def without_secrets(self, text: str) -> str:
        """The text without token and cookie, in case a server has repeated them."""
        cookie = self.cookie.get_secret_value()
        for secret in (self.token.get_secret_value(), cookie, cookie.partition("=")[2]):
            text = text.replace(secret, "…") if secret else text
        return text


class Client(kfp.Client):  # type: ignore[misc]
    """kfp.Client without stored settings, and with time limits.

    kfp.Client reads namespace and cookie of an earlier use from ~/.config/kfp/context.json, sends five requests in its
    constructor, and waits for an answer without limit."""

    def __init__(self, cluster: Cluster, **options: Any) -> None:
        self.cluster = cluster
        self.namespace = ""  # of experiments and runs; empty where KFP serves a single namespace, which refuses any
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that KFP must be version 2
            super().__init__(**options)
        api = self.api = self._run_api.api_client
        api.configuration.retries = urllib3.Retry(
            2,
            connect=2,
            read=0,
            redirect=False,
            status=0,
            other=0,
            backoff_factor=0.2,
            respect_retry_after_header=False,
        )
        api.rest_client = kfp_server_api.rest.RESTClientObject(api.configuration)
        request = api.rest_client.request
        api.rest_client.request = partial(_request_with_timeout, request)

    @property
    def run_namespace(self) -> str:
        """Where the pods of runs are: KFP for one user runs them in its own namespace."""
        return self.namespace or self.cluster.system_namespace

    def _load_context_setting_or_default(self) -> None:
        self._context_setting = {"namespace": "none: it is set for each request"}

    def get_user_namespace(self) -> str:
        """The namespace of experiments and runs."""
        return self.namespace


def _request_with_timeout(request: Any, *arguments: Any, _request_timeout: Any = None, **options: Any) -> Any:
    limits = _request_timeout or (CONNECT_SECONDS, READ_SECONDS)
    return request(*arguments, _request_timeout=limits, **options)


@contextmanager
def connect(cluster: Cluster | None = None) -> Iterator[Client]:
    """A client of the KFP of the cluster, or of the one that the environment names, while the block lasts; its
    namespace is set where KFP serves several. Raises KubefaceError, one clear line, if KFP is not reached, or refuses
    something in the block."""
    cluster = cluster or Cluster.from_environment()
    with _api_url(cluster) as host:
        try:
            client = _client(cluster, host)
            if client.healthzs.healthz_service_get_healthz().multi_user:
                client.namespace = cluster.namespace
            yield client
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
            raise request_error(error, cluster) from None


def _client(cluster: Cluster, host: str) -> Client:
    inside = not cluster.host and ACCOUNT.exists() and not cluster.token.get_secret_value()
    credentials = ServiceAccountTokenVolumeCredentials()  # of a token for KFP's API that a PodDefault projects
    return Client(
        cluster,
        host=host,
        existing_token=cluster.token.get_secret_value() or None,
        cookies=cluster.cookie.get_secret_value() or "",
        ssl_ca_cert=cluster.ca or None,
        credentials=credentials if inside and Path(credentials._token_path).is_file() else None,
        ui_host=cluster.ui or None,
    )


@contextmanager
def _api_url(cluster: Cluster) -> Iterator[str]:
    """The URL of the API: KFP_HOST, the service's inside the cluster, or that of a forwarded port."""
    if cluster.host:
        yield cluster.host
    elif ACCOUNT.exists():
        yield f"http://{SERVICE}.{cluster.system_namespace}.svc.cluster.local:{PORT}"
    else:
        with _forwarded_port(cluster) as host:
            yield host


@contextmanager
def _forwarded_port(cluster: Cluster) -> Iterator[str]:
    """A port of 127.0.0.1 that kubectl connects with KFP's API."""
    command = ["port-forward", f"--namespace={cluster.system_namespace}", "--address=127.0.0.1"]
    with tempfile.TemporaryFile("w+") as complaints:
        process = cluster.kubectl().start(*command, f"svc/{SERVICE}", f":{PORT}", stderr=complaints)
        try:
            port = _port(process)
            if not port:
                process.kill()
                process.wait()
                complaints.seek(0)
                raise Unreachable(
                    f"kubectl port-forward svc/{SERVICE}: {one_line(complaints.read())} (or give KFP_HOST, the URL of "
                    "Kubeflow Pipelines)"
                )
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.communicate()


def _port(process: "subprocess.Popen[str]") -> str:
    """The port of kubectl's first line, on which it listens; empty if there is none in time."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    ready, _, _ = select.select([process.stdout], [], [], FORWARD_SECONDS)
    match = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline()) if ready else None
    return match[1] if match else ""


def request_error(error: Exception, cluster: Cluster) -> KubefaceError:
    """A failed request (an ApiException of the client, or what urllib3 raises) as one line: what happened, where, and
    what to do."""
    host = cluster.host or f"Kubeflow Pipelines in namespace {cluster.system_namespace}"
    if not isinstance(error, kfp_server_api.ApiException) or not error.status:
        return Unreachable(cluster.without_secrets(_connection_error(error, host)))
    kind = Unreachable if int(error.status) in BUSY else KubefaceError
    return kind(cluster.without_secrets(f"{host} {_refusal(error, cluster)}"))


def _refusal(error: Any, cluster: Cluster) -> str:
    status, reason = int(error.status), server_message(error)
    if status == 401 or 300 <= status < 400:
        missing = not cluster.token.get_secret_value() and not cluster.cookie.get_secret_value()
        todo = "set KFP_TOKEN or KFP_COOKIE" if missing else "KFP_TOKEN or KFP_COOKIE is not valid (any more): renew it"
        return f"wants you to sign in ({status}): {todo}"
    if status == 403:
        return f"forbids it in namespace {cluster.namespace} (403{reason}): ask for the rights, or set KFP_NAMESPACE"
    if status == 404:
        return f"does not know it (404{reason}): check the id or name, and that KFP_HOST is the API's URL"
    if status == 409:
        return f"says that it exists already or was changed meanwhile (409{reason}): try again"
    if status in BUSY:
        return f"does not answer in time or is overloaded ({status}{reason}): try again later"
    if status >= 500:
        return f"failed ({status}{reason}): try again, or read the logs of its deployment ml-pipeline"
    return f"refuses it ({status}{reason}): correct what it names"


def server_message(error: Any) -> str:
    """The server's reason for a refusal, as `: text` in one short line; empty if there is no readable one."""
    try:
        text = str(json.loads(error.body or "{}").get("message", ""))
    except (ValueError, AttributeError):
        return ""  # a proxy's page
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {lines[0][:300]}" if lines else ""


def _connection_error(error: Exception, host: str) -> str:
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, urllib3.exceptions.SSLError) or "SSL" in str(cause):
        return f"{host}: its certificate is not trusted: name its authority's PEM file in KFP_CA"
    if isinstance(cause, urllib3.exceptions.NameResolutionError):
        return f"{host}: there is no such host: check KFP_HOST"
    refused = isinstance(cause, urllib3.exceptions.NewConnectionError)  # which urllib3 counts among the time-outs
    if isinstance(cause, urllib3.exceptions.TimeoutError) and not refused:
        return f"{host} does not answer in time ({READ_SECONDS:g} s): check KFP_HOST and the network, or try again"
    return f"nothing answers at {host} ({type(cause).__name__}): check KFP_HOST and the network"
