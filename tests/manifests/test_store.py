"""The store of the overlay `dev` really runs: its command and its hook, out of the manifest, on this machine."""

import os
import re
import subprocess
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from minio import Minio
from minio.error import S3Error

from pipelines.cluster.kubectl import Kubectl
from pipelines.local.store import _wait, free_ports
from tests.pipelines.local.test_store import listening

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "faces"
KEYS = {"AWS_ACCESS_KEY_ID": "of-a-test", "AWS_SECRET_ACCESS_KEY": "of-a-test-too"}
pytestmark = pytest.mark.slow


class Store:
    """One start of the manifest's container, on free ports."""

    def __init__(self, folder: Path, container: dict[str, Any], ports: list[int]) -> None:
        self.s3, self.master = ports[0], ports[1]
        weed = Path(sysconfig.get_path("scripts"), "weed")
        flags = ("s3.port", "master.port", "volume.port", "filer.port")
        names = (*flags, *(f"{flag}.grpc" for flag in flags))
        # The volumes of the manifest are folders here.
        command = [re.sub(r"=/(?:tmp(?=/)|(?=data$))", lambda _: f"={folder}/", word) for word in container["command"]]
        bin_folder = folder / "bin"
        for path in (folder / "data", bin_folder):
            path.mkdir(exist_ok=True)
        # The hook calls `weed shell`, which knows the master by its usual port.
        (bin_folder / "weed").write_text(f'#!/bin/sh\nexec {weed} "$@" -master=127.0.0.1:{self.master}.{ports[5]}\n')
        (bin_folder / "weed").chmod(0o755)
        self.environment = os.environ | KEYS | {"S3_BUCKET": BUCKET, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
        self.log = folder / "weed.log"
        with open(self.log, "ab") as log:
            command = [str(weed), *command[1:], *(f"-{name}={port}" for name, port in zip(names, ports, strict=True))]
            self.process = subprocess.Popen(command, env=os.environ | KEYS, stdout=log, stderr=subprocess.STDOUT)
        self.hook = container["lifecycle"]["postStart"]["exec"]["command"]
        probes = ("startupProbe", "readinessProbe", "livenessProbe")
        self.probes = {container[name]["httpGet"]["path"] for name in probes}

    def kill(self) -> None:
        """As a node does that is lost; an orderly end takes SeaweedFS 15 seconds, of the 60 that the manifest gives."""
        self.process.kill()
        self.process.wait()

    def make_bucket(self) -> None:
        subprocess.run(self.hook, env=self.environment, check=True, timeout=70, capture_output=True)

    def client(self) -> Minio:
        access_key, secret_key = KEYS.values()
        return Minio(f"127.0.0.1:{self.s3}", access_key, secret_key, secure=False)


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    objects = yaml.safe_load_all(Kubectl().run("kustomize", str(ROOT / "manifests" / "overlays" / "dev")))
    store = next(item for item in objects if item["kind"] == "StatefulSet")
    found: dict[str, Any] = store["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.fixture
def start(tmp_path: Path, container: dict[str, Any]) -> Iterator[Callable[[], Store]]:
    """Starts the store, which ends with the test."""
    started: list[Store] = []

    def call() -> Store:
        store = Store(tmp_path, container, free_ports(8))
        started.append(store)
        _wait(store.process, f"http://127.0.0.1:{store.s3}", store.log)
        return store

    yield call
    for store in started:
        store.kill()


def test_store_serves_the_bucket_to_who_has_the_key(start: Callable[[], Store], tmp_path: Path) -> None:
    store = start()
    store.make_bucket()
    store.make_bucket()  # the hook runs at every start
    client = store.client()
    assert [bucket.name for bucket in client.list_buckets()] == [BUCKET]
    (tmp_path / "face").write_bytes(b"a face")
    client.fput_object(BUCKET, "a/face", str(tmp_path / "face"))
    for path in store.probes:
        with urllib.request.urlopen(f"http://127.0.0.1:{store.s3}{path}") as answer:
            assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://127.0.0.1:{store.s3}/{BUCKET}/a/face")
    with pytest.raises(S3Error, match=r"BucketNotEmpty|not empty"):
        client.remove_bucket(BUCKET)
    with pytest.raises(S3Error, match="NoSuchBucket"):
        client.fput_object("other", "a/face", str(tmp_path / "face"))
    store.kill()
    assert start().client().get_object(BUCKET, "a/face").data == b"a face"


def test_a_bucket_whose_name_begins_alike_is_not_taken_for_it(start: Callable[[], Store]) -> None:
    store = start()
    store.client().make_bucket(f"{BUCKET}-2")
    store.make_bucket()
    assert {bucket.name for bucket in store.client().list_buckets()} == {BUCKET, f"{BUCKET}-2"}


def test_only_s3_is_served_beyond_loopback(start: Callable[[], Store]) -> None:
    store = start()
    addresses = {port: address for address, port in listening()}
    assert addresses[store.master] == "0100007F"
    assert addresses[store.s3] != "0100007F"
