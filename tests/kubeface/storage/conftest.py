"""A store and a proxy before it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeface.storage import objects, s3
from tests.support.faulty_store import BUCKET, Proxy, Store, in_force


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with an empty bucket, which the environment describes."""
    store = Store(tmp_path_factory.mktemp("store"))
    store.start()
    with in_force(store.environment):
        yield store
    store.kill()


@pytest.fixture
def proxy(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that the environment takes for the store; pauses are short."""
    monkeypatch.setattr(s3, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(s3, "LONGEST_PAUSE_SECONDS", 0.05)
    with Proxy(store.url) as proxy:
        monkeypatch.setenv("S3_ENDPOINT", proxy.url)
        yield proxy


@pytest.fixture
def face(store: Store, tmp_path: Path) -> str:
    """URI of an object of 300,000 bytes, which are in `face.bin` too."""
    (tmp_path / "face.bin").write_bytes(os.urandom(300_000))
    objects.upload(tmp_path / "face.bin", f"s3://{BUCKET}/spoilt/face.bin")
    return f"s3://{BUCKET}/spoilt/face.bin"
