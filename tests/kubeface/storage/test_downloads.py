"""Files from outside: checksums, the cache, and what is said when something is wrong."""

import base64
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeface.runtime.errors import KubefaceError
from kubeface.storage import downloads as fetch_module
from kubeface.storage.downloads import (
    IMAGE_VARIABLE,
    MIRROR_VARIABLE,
    Unreachable,
    WheelFile,
    cache_folder,
    fetch,
    fetch_any,
    mirrored,
    split_checksum,
)
from tests.support import servers

DATA = bytes(range(256)) * 300


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


PINNED = f"#sha256={sha256(DATA)}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("KUBEFACE_CACHE", str(folder))
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(fetch_module, "FIRST_PAUSE_SECONDS", 0.01)
    return folder


def cached(cache: Path) -> list[str]:
    """Names of the files in the cache."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


class Server(servers.LoopbackServer):
    """A web server on loopback; `requests` lists what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cut_off = 0
        self.faults: list[int] = []  # how many bytes are cut off, or statuses, of the next answers
        outer = self

        class Handler(servers.Handler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                data = outer.files.get(self.path)
                fault = outer.faults.pop(0) if outer.faults else outer.cut_off
                if data is None or 400 <= fault < 600:
                    self.send_error(404 if data is None else fault)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) - fault])

        super().__init__(Handler)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        yield server


def test_a_file_is_downloaded_once(server: Server, cache: Path) -> None:
    server.files["/data/weights.pt"] = DATA
    uri = f"{server.url}/data/weights.pt{PINNED}"
    path = fetch(uri)
    assert path.read_bytes() == DATA
    assert path.name == "weights.pt"  # the suffix says how to read it
    assert cache in path.parents
    assert fetch(uri) == path
    assert fetch(uri.replace(sha256(DATA), sha256(DATA).upper())) == path
    assert server.requests == ["/data/weights.pt"]


def test_a_wrong_checksum_is_refused_and_nothing_kept(server: Server, cache: Path) -> None:
    server.files["/weights.pt"] = DATA
    wrong = sha256(b"other")
    with pytest.raises(KubefaceError) as raised:
        fetch(f"{server.url}/weights.pt#sha256={wrong}")
    assert f"{server.url}/weights.pt has SHA-256 {sha256(DATA)}, expected {wrong}" in str(raised.value)
    assert cached(cache) == []
    server.files["/weights.pt"] = b"other"
    assert fetch(f"{server.url}/weights.pt#sha256={wrong}").read_bytes() == b"other"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_missing_checksum_is_refused_before_anything_is_asked(scheme: str, server: Server, cache: Path) -> None:
    address = f"{scheme}://127.0.0.1:{server.url.rsplit(':', 1)[1]}/weights.pt"
    for uri in (address, address + "#sha256="):
        with pytest.raises(KubefaceError, match="has no checksum: write it as") as raised:
            fetch(uri)
        assert f"{address}#sha256=<64 hex digits>" in str(raised.value)
    assert server.requests == []


def test_an_unreachable_file_is_named(server: Server, cache: Path) -> None:
    for said in ("Not Found", ".*Connection refused"):
        with pytest.raises(KubefaceError, match=rf"/gone\.pt cannot be downloaded: {said}"):
            fetch(f"{server.url}/gone.pt{PINNED}")
        server.server_close()
    assert cached(cache) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/a b.pt", "http:///a.pt", "http://127.0.0.1:x/a.pt"])
def test_an_invalid_address_is_named(address: str) -> None:
    with pytest.raises(KubefaceError, match="cannot be downloaded: "):
        fetch(f"{address}{PINNED}")


@pytest.mark.parametrize("fault", [1000, 429, 503])
def test_a_download_cut_off_or_met_by_a_busy_server_is_tried_thrice_and_not_kept(
    fault: int, server: Server, cache: Path
) -> None:
    server.files["/weights.pt"] = DATA
    server.faults = [fault] * 3
    with pytest.raises(KubefaceError, match=r"cannot be downloaded: ") as raised:
        fetch(f"{server.url}/weights.pt{PINNED}")
    assert fault != 1000 or str(raised.value).endswith("it was cut off after 75800 of 76800 bytes")
    assert cached(cache) == [] and len(server.requests) == 3
    server.faults = [fault] * 2
    assert fetch(f"{server.url}/weights.pt{PINNED}").read_bytes() == DATA
    assert cached(cache) == ["weights.pt"] and len(server.requests) == 6


def test_a_download_that_is_refused_is_not_tried_again(server: Server, cache: Path) -> None:
    server.files["/weights.pt"] = DATA
    server.faults = [403]
    with pytest.raises(KubefaceError, match=r"weights\.pt cannot be downloaded: Forbidden"):
        fetch(f"{server.url}/weights.pt{PINNED}")
    assert len(server.requests) == 1


def test_a_damaged_cache_is_downloaded_again(server: Server, cache: Path) -> None:
    server.files["/weights.pt"] = DATA
    uri = f"{server.url}/weights.pt{PINNED}"
    fetch(uri).write_bytes(DATA[:-1])
    assert fetch(uri).read_bytes() == DATA
    assert len(server.requests) == 2


def test_paths_and_file_uris(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "a file.pt"
    file.write_bytes(DATA)
    assert fetch(str(file)) == file
    assert fetch(file.as_uri()) == file
    assert cached(cache) == []
    for uri in (str(file), file.as_uri()):
        assert fetch(f"{uri}{PINNED}").read_bytes() == DATA
        with pytest.raises(KubefaceError, match="it is not the file that was asked for"):
            fetch(f"{uri}#sha256={sha256(b'other')}")
    for uri in (f"{tmp_path}/gone.pt", f"file://{tmp_path}/gone.pt", f"{tmp_path}/gone.pt{PINNED}"):
        with pytest.raises(KubefaceError, match=r"gone\.pt"):
            fetch(uri)
    with pytest.raises(KubefaceError, match="does not exist"):
        fetch(str(tmp_path))


def test_the_checksum_is_divided_from_the_address() -> None:
    assert split_checksum("https://h/a.tar#sha256=AB") == ("https://h/a.tar", "ab")
    assert split_checksum("/data/a#b.tar") == ("/data/a#b.tar", None)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    assert cache_folder() == tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: path != tmp_path / "cache")  # as it is for others than root
        assert cache_folder() == Path(tempfile.gettempdir(), "kubeface")
    monkeypatch.delenv("KUBEFACE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/kubeface")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/user")
    assert cache_folder() == Path("/home/user/.cache/kubeface")


MEMBERS = {"sample/data/b.bin": b"bb", "sample/data/a.bin": b"a", "sample/other.bin": b"other"}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel that pip takes for one."""
    path = tmp_path / "shelf" / "kubeface_sample-1.0-py3-none-any.whl"
    path.parent.mkdir()
    info = "kubeface_sample-1.0.dist-info"
    files = MEMBERS | {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: kubeface-sample\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for name, data in files.items()
    ]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sample/data/", b"")
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
    return path


@pytest.fixture
def checksum(wheel: Path, cache: Path) -> str:
    """The wheel's, which lies where an earlier run would have put it."""
    checksum = sha256(wheel.read_bytes())
    (cache / "wheels" / checksum).mkdir(parents=True)
    shutil.copy(wheel, cache / "wheels" / checksum)
    return checksum


def test_files_of_a_wheel_in_the_cache(checksum: str, cache: Path) -> None:
    def file(member: str, sha256: str | None = None) -> WheelFile:
        return WheelFile("kubeface-sample==1.0", checksum, member, sha256)

    assert file("sample/data/a.bin", sha256(b"a")).read() == b"a"
    assert file("sample/other.bin").read() == b"other"
    assert list(file("sample/data/").read_all().items()) == [("a.bin", b"a"), ("b.bin", b"bb")]
    with pytest.raises(KubefaceError, match=r"the wheel kubeface-sample==1\.0 has no file sample/data/c\.bin"):
        file("sample/data/c.bin").read()
    with pytest.raises(KubefaceError, match=r"sample/data/a\.bin in the wheel .* has another SHA-256"):
        file("sample/data/a.bin", sha256(b"b")).read()
    extracted = file("sample/data/b.bin", sha256(b"bb"))
    path = extracted.fetch()
    assert (path.name, path.read_bytes()) == ("b.bin", b"bb")
    shutil.rmtree(cache / "wheels")
    assert extracted.fetch() == path  # extracted once
    path.write_bytes(b"damaged")
    with pytest.raises(KubefaceError, match=r"the wheel kubeface-sample==1\.0 cannot be downloaded"):
        extracted.fetch()


@pytest.fixture
def shelf(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip takes wheels from this folder and from nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel.parent


def test_a_wheel_is_downloaded_once_and_again_when_it_is_damaged(wheel: Path, shelf: Path, cache: Path) -> None:
    checksum = sha256(wheel.read_bytes())
    file = WheelFile("kubeface-sample==1.0", checksum, "sample/other.bin")
    assert file.read() == b"other"
    kept = cache / "wheels" / checksum / wheel.name
    assert cached(cache) == [wheel.name]
    kept.write_bytes(b"damaged")
    assert file.read() == b"other"
    assert kept.read_bytes() == wheel.read_bytes()
    wheel.unlink()
    assert file.read() == b"other"


@pytest.mark.parametrize("requirement", ["kubeface-sample==1.0", "kubeface-sample==2.0"])
def test_a_wheel_that_cannot_be_had_is_named(requirement: str, shelf: Path, cache: Path) -> None:
    with pytest.raises(KubefaceError) as raised:
        WheelFile(requirement, "0" * 64, "sample/other.bin").read()
    assert f"the wheel {requirement} cannot be downloaded: " in str(raised.value)
    assert isinstance(raised.value, Unreachable) == requirement.endswith("2.0")  # the other is there, and another file
    assert cached(cache) == []


# --- a file with several addresses ------------------------------------------------------------------------------------


def test_addresses_are_tried_in_their_order(server: Server, cache: Path) -> None:
    server.files |= {"/wrong/w.pt": DATA[1:], "/right/w.pt": DATA, "/late/w.pt": DATA}
    sources = [f"{server.url}/{folder}/w.pt{PINNED}" for folder in ("gone", "wrong", "right", "late")]
    path, source = fetch_any(sources)
    assert (path.read_bytes(), source) == (DATA, sources[2])
    assert server.requests == ["/gone/w.pt", "/wrong/w.pt", "/right/w.pt"]
    assert fetch_any(sources) == (path, sources[0])  # the same file by its checksum, out of the cache
    assert len(server.requests) == 3


def test_each_address_that_fails_is_named(server: Server, tmp_path: Path) -> None:
    """Somebody who has something else to go on with may do so where all are unreachable, not where one is wrong."""
    server.files["/wrong/w.pt"] = DATA[1:]
    nowhere = [f"{server.url}/gone/w.pt{PINNED}", f"{tmp_path}/w.pt{PINNED}", f"{tmp_path}/w.pt"]
    wrong = [f"{server.url}/wrong/w.pt{PINNED}", f"{server.url}/w.pt"]
    for sources in ([nowhere[0]], [nowhere[1]], [nowhere[2]], nowhere, wrong[:1], wrong[1:], [*nowhere, *wrong]):
        with pytest.raises(KubefaceError) as raised:
            fetch_any(sources)
        assert isinstance(raised.value, Unreachable) == (sources[-1] in nowhere)
    gone, unread, missing, other, unpinned = str(raised.value).split("; ")
    assert gone == f"{server.url}/gone/w.pt cannot be downloaded: Not Found"
    assert unread.startswith(f"{tmp_path}/w.pt cannot be read") and missing == f"{tmp_path}/w.pt does not exist"
    assert other.startswith(f"{server.url}/wrong/w.pt has SHA-256 {sha256(DATA[1:])}, expected {sha256(DATA)}")
    assert unpinned.startswith(f"{server.url}/w.pt has no checksum")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in force as mirror, with DATA under its checksum as w.pt."""
    folder = tmp_path / "mirror"
    (folder / sha256(DATA)).mkdir(parents=True)
    (folder / sha256(DATA) / "w.pt").write_bytes(DATA)
    monkeypatch.setenv(MIRROR_VARIABLE, str(folder))
    return folder


def test_the_mirror_and_the_image_are_asked_before_the_publisher(
    server: Server, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/w.pt"] = DATA
    source = f"{server.url}/w.pt#sha256={sha256(DATA).upper()}"
    wheel = WheelFile("kubeface-sample==1.0", "0" * 64, "sample/data/w.pt", sha256(DATA))
    assert str(wheel) == f"kubeface-sample==1.0:sample/data/w.pt{PINNED}"
    for sources, found in (([f"{server.url}/unpinned.pt", source], source), ([wheel], wheel)):
        path, origin = fetch_any(sources)
        assert (path.read_bytes(), origin) == (DATA, found)
    monkeypatch.setenv(IMAGE_VARIABLE, str(mirror))
    for deployment in ("", "s3://never/asked"):  # nothing is what kubeface-settings says where there is no mirror
        monkeypatch.setenv(MIRROR_VARIABLE, deployment)
        assert fetch_any([source])[0].read_bytes() == DATA
    assert server.requests == []


@pytest.mark.parametrize("content", [None, DATA[1:], b""])
def test_a_mirror_without_the_file_is_passed_over(content: bytes | None, server: Server, mirror: Path) -> None:
    file = mirror / sha256(DATA) / "w.pt"
    file.unlink() if content is None else file.write_bytes(content)
    server.files["/w.pt"] = DATA
    source = f"{server.url}/w.pt{PINNED}"
    assert fetch_any([source])[0].read_bytes() == DATA
    assert server.requests == ["/w.pt"]


def test_a_mirror_that_fails_is_named_too(mirror: Path) -> None:
    with pytest.raises(KubefaceError, match=rf"^{mirror}/{'0' * 64}/w\.pt cannot be read: .*; http://127\.0\.0\.1:1/w"):
        fetch_any([f"http://127.0.0.1:1/w.pt#sha256={'0' * 64}"])


def test_where_a_mirror_has_a_file() -> None:
    checksum = sha256(DATA)
    expected = f"s3://bucket/weights/{checksum}/w.pt#sha256={checksum}"
    for source in (
        f"https://example.org/some/w.pt#sha256={checksum}",
        f"/some/w.pt#sha256={checksum}",
        WheelFile("kubeface-sample==1.0", "0" * 64, "sample/w.pt", checksum),
    ):
        assert mirrored(source, "s3://bucket/weights/") == expected
    assert mirrored("https://example.org/w.pt", "s3://bucket") is None
