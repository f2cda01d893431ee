"""LFW by name: fetched from a server, held to its checksum, kept; here from loopback, and a small archive."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeface.runtime.errors import KubefaceError
from kubeface.storage import datasets
from kubeface.storage import downloads as fetch_module
from kubeface.storage.datasets import DATASETS
from kubeface.storage.downloads import MIRROR_VARIABLE, fetch
from tests.kubeface.storage.test_downloads import Server, cached, sha256
from tests.kubeface.storage.test_sources import contents
from tests.support.images import write_archive

PAIRS = b"1\t1\nann\t1\t2\nann\t1\tbob\t1\n"


@pytest.fixture
def photographs(orl: dict[str, bytes]) -> dict[str, bytes]:
    """Two people, named as LFW names them."""
    return {
        f"lfw/{person}/{person}_{number:04d}.jpg": orl[f"s{label}/{number}.pgm"]
        for label, person in ((1, "ann"), (2, "bob"))
        for number in (1, 2, 3)
    }


@pytest.fixture
def archive(photographs: dict[str, bytes], tmp_path: Path) -> bytes:
    return Path(write_archive(tmp_path / "published.tgz", photographs)).read_bytes()


@pytest.fixture
def server(archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A publisher of LFW, with an empty cache and nothing of LFW in the working folder."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("KUBEFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(fetch_module, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    with Server() as server:
        server.files = {"/files/5976018": archive, "/files/5976006": PAIRS}
        for name, path in (("lfw", "/files/5976018"), ("lfw/pairs.txt", "/files/5976006")):
            monkeypatch.setitem(datasets.DATASETS, name, f"{server.url}{path}#sha256={sha256(server.files[path])}")
        yield server


def test_lfw_is_downloaded_once_and_then_needs_no_network(server: Server, photographs: dict[str, bytes]) -> None:
    server.faults = [1000, 1000]  # cut off twice, and asked for again
    for _ in range(2):
        assert contents("lfw") == photographs
        assert fetch("lfw/pairs.txt").read_bytes() == PAIRS
        server.files.clear()
    assert server.requests == [*["/files/5976018"] * 3, "/files/5976006"]


def test_a_file_or_folder_of_that_name_goes_first(server: Server, tmp_path: Path) -> None:
    (tmp_path / "lfw" / "cyd").mkdir(parents=True)
    (tmp_path / "lfw" / "cyd" / "1.jpg").write_bytes(b"mine")
    (tmp_path / "lfw" / "pairs.txt").write_bytes(b"mine too")
    assert contents("lfw") == {"cyd/1.jpg": b"mine", "pairs.txt": b"mine too"}
    assert fetch("lfw/pairs.txt").read_bytes() == b"mine too"
    assert server.requests == []


def test_another_checksum_or_a_part_is_refused_and_nothing_kept(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.files["/files/5976018"] = archive[:-1] + bytes([archive[-1] ^ 1])
    with pytest.raises(KubefaceError, match=r"^lfw cannot be had: http.*/5976018 has SHA-256 .* expected") as raised:
        contents("lfw")
    assert str(raised.value).endswith("; or give the file's path or s3:// address")
    server.cut_off = 1000
    with pytest.raises(KubefaceError, match=f"it was cut off after {len(archive) - 1000} of {len(archive)} bytes"):
        contents("lfw")
    server.cut_off = 0
    assert cached(tmp_path / "cache") == []
    server.files["/files/5976018"] = archive
    assert len(contents("lfw")) == 6


def test_a_publisher_without_it_is_named(server: Server) -> None:
    server.files.clear()
    for name in ("lfw", "lfw/pairs.txt"):
        with pytest.raises(KubefaceError, match=f"^{name} cannot be had: .*cannot be downloaded: Not Found; or give"):
            fetch(name)


def test_a_mirror_is_asked_first(
    server: Server, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "mirror" / sha256(archive)
    place.mkdir(parents=True)
    (place / "5976018").write_bytes(archive)
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path / "mirror"))
    assert len(contents("lfw")) == 6
    assert server.requests == []


def test_the_checksums_are_scikit_learns() -> None:
    lfw = pytest.importorskip("sklearn.datasets._lfw")
    known = {"lfw": lfw.ARCHIVE, "lfw-funneled": lfw.FUNNELED_ARCHIVE} | {
        f"lfw/{target.filename}": target for target in lfw.TARGETS
    }
    assert {name: f"{file.url}#sha256={file.checksum}" for name, file in known.items()} == DATASETS


def test_the_checksums_of_the_pairs_are_those_of_the_real_files(shared_data: Path) -> None:
    for name, uri in DATASETS.items():
        if name.endswith(".txt"):
            found = hashlib.sha256((shared_data / name).read_bytes()).hexdigest()
            assert uri.endswith(found)
