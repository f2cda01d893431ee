"""The command `secret`: keys of this process's environment as secrets of a namespace.

The keys travel on kubectl's standard input: process arguments can be read by every user of a machine. They are applied
on the server, since kubectl's own apply keeps a copy of what it applied in an annotation of the object.
"""

import base64
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubeface.runtime.errors import KubefaceError, require
from pipelines.cluster.kubectl import Kubectl

FIELD_MANAGER = "kubeface-secret"
MANAGED_BY = "app.kubernetes.io/managed-by"


@dataclass(frozen=True)
class SecretSource:
    """A secret, and the variables of the environment that its keys come from."""

    name: str
    keys: Mapping[str, str]
    optional: bool = False

    def is_given(self, environment: Mapping[str, str]) -> bool:
        """Whether any of its keys is in the environment."""
        return any(environment.get(variable) for variable in self.keys.values())


# The first has the name and the keys that Kubeflow Pipelines gives the one of its own store.
SECRETS = (
    SecretSource("mlpipeline-minio-artifact", {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}),
    SecretSource("kubeface-webhook", {"url": "KUBEFACE_WEBHOOK"}, optional=True),
)


@dataclass(frozen=True)
class SecretOutcome:
    """What was done about a secret."""

    name: str
    kept: str = ""  # why it stays as it is; empty if it was written


def make_secrets(
    kubectl: Kubectl, namespace: str, environment: Mapping[str, str], replace: bool = False
) -> list[SecretOutcome]:
    """Puts the secrets into a namespace, which must exist; says of each what was done.

    One that is optional is left out where none of its keys is in the environment. One that somebody else made, as
    Kubeflow Pipelines does for its own store, stays unless it is to be replaced.

    Raises KubefaceError if a key is missing, somebody else's secret has other keys, or the cluster refuses."""
    wanted = [source for source in SECRETS if not source.optional or source.is_given(environment)]
    for source in wanted:
        if replace or source.is_given(environment):
            _require_keys(source, environment)
    outcomes = [
        SecretOutcome(source.name, "" if replace else _reason_to_keep(kubectl, namespace, source, environment))
        for source in wanted
    ]
    for source, outcome in zip(wanted, outcomes, strict=True):
        if not outcome.kept:
            _apply(kubectl, namespace, source, {key: environment[variable] for key, variable in source.keys.items()})
    return outcomes


def _require_keys(source: SecretSource, environment: Mapping[str, str]) -> None:
    missing = [name for name in source.keys.values() if not environment.get(name)]
    require(not missing, f"{' and '.join(missing)} must be set in the environment: they are the keys of {source.name}")
    for variable in source.keys.values():
        value = environment[variable]
        require(value == value.strip() and value.isprintable(), f"{variable} has spaces or line ends around its value")


def _reason_to_keep(kubectl: Kubectl, namespace: str, source: SecretSource, environment: Mapping[str, str]) -> str:
    """Why a secret is not written; empty if it is to be. Raises KubefaceError if it is somebody else's and has other
    keys than the environment, or is to be written and there are no keys."""
    if _owner(kubectl, namespace, source.name) in (None, "kubeface"):
        _require_keys(source, environment)
        return ""
    if not source.is_given(environment):
        return "the environment has no keys"
    require(
        _values(kubectl, namespace, source) == [environment[variable] for variable in source.keys.values()],
        f"secret {source.name} in namespace {namespace} was made by somebody else, as Kubeflow Pipelines does for "
        "its own store, and stays as it is; it has other keys than the environment: use that store's keys, or replace "
        "it with --replace (make: REPLACE=1)",
    )
    return "it has the keys of the environment"


def _owner(kubectl: Kubectl, namespace: str, name: str) -> str | None:
    """Who made a secret, by its label; None if there is no secret, empty if it has no label."""
    label = MANAGED_BY.replace(".", "\\.")
    template = f"jsonpath={{.metadata.name}}={{.metadata.labels.{label}}}"  # not the data
    found = kubectl.run("get", "secret", name, f"--namespace={namespace}", "--ignore-not-found", f"--output={template}")
    return found.partition("=")[2] if found else None


def _values(kubectl: Kubectl, namespace: str, source: SecretSource) -> list[str]:
    """The keys in a secret that exists; empty where it lacks one."""
    template = "jsonpath=" + ",".join(f"{{.data.{key}}}" for key in source.keys)
    found = kubectl.run("get", "secret", source.name, f"--namespace={namespace}", f"--output={template}")
    return [base64.b64decode(value).decode("utf-8", "replace") for value in found.split(",")]


def _apply(kubectl: Kubectl, namespace: str, source: SecretSource, values: Mapping[str, str]) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": source.name,
            "namespace": namespace,
            "labels": {MANAGED_BY: "kubeface", "app.kubernetes.io/part-of": "kubeface"},
        },
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }
    flags = ("--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}", "--filename=-")
    try:
        kubectl.run("apply", *flags, stdin=json.dumps(manifest))
    except KubefaceError as error:
        raise KubefaceError(_without(str(error), values.values())) from None


def _without(text: str, values: Iterable[str]) -> str:
    """The text without the values, plain and in base64, in case a server has repeated them."""
    for value in values:
        for form in (value, base64.b64encode(value.encode()).decode()):
            text = text.replace(form, "***")
    return text


def secret(*, namespace: str = "kubeface", replace: bool = False) -> None:
    """Puts the S3 keys of the environment into a namespace of the cluster.

    Args:
        namespace: Namespace of the secrets.
        replace: Also replace a secret that somebody else made.
    """
    outcomes = make_secrets(Kubectl(os.environ.get("KUBE_CONTEXT", "")), namespace, os.environ, replace)
    for outcome in outcomes:
        if outcome.kept:
            print(f"{outcome.name} in namespace {namespace}: not written: somebody else made it, and {outcome.kept}")
        else:
            print(f"{outcome.name} in namespace {namespace}: from the environment")
