"""S3 storage when things go wrong: a store that dies and comes back, one that does not, bodies cut off or damaged."""

import hashlib
import http.client
import http.server
import os
import pickle
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kubeface.runtime.errors import KubefaceError, exit_on_error
from kubeface.storage import objects
from kubeface.storage.folders import read_json, write_json
from kubeface.storage.ranged import RemoteFile, open_ranged
from kubeface.tables.table import Table, TableWriter, open_shard
from pipelines.local import store as store_module
from pipelines.local.store import free_ports

BUCKET = "kubeface"


class Store:
    """SeaweedFS that is killed and started again with the same ports and the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ports = folder, free_ports(8)
        self.url = f"http://127.0.0.1:{self.ports[0]}"
        self.environment = {
            "S3_ENDPOINT": self.url,
            "AWS_ACCESS_KEY_ID": "a-key-of-the-tests",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = Path(sysconfig.get_path("scripts"), "weed")
        self._process = store_module._start(program, self.folder, self.ports, self.environment)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store_module, "START_SECONDS", 60)  # after a kill it takes its time
            store_module._wait(self._process, self.url, self.folder / "weed.log")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with an empty bucket, which the environment describes."""
    store = Store(tmp_path_factory.mktemp("store"))
    store.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        objects.ensure_bucket(BUCKET)
        yield store
    store.kill()


Fault = Callable[[str, bytes], bytes | int | None]


class Proxy:
    """Stands between client and store on loopback.

    Args:
        url: of the store.

    `faults` are applied to one answer each, in turn, and counted off: a function of method and body that gives the
    body to send, a status to send instead, or None to close the connection without an answer. `always` is applied to
    every answer, after them. `cut` sends that many bytes less than it announces. `requests` lists method and path.
    """

    def __init__(self, url: str) -> None:
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.spoil_request: list[bool] = []
        self.etag: str | None = None
        self.requests: list[str] = []
        self.bytes = 0
        self._lock = threading.Lock()
        outer, address = self, url.removeprefix("http://")

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                with outer._lock:
                    outer.requests.append(f"{self.command} {self.path}")
                    fault = outer.faults.pop(0) if outer.faults else outer.always
                    spoil = outer.spoil_request.pop(0) if outer.spoil_request else False
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if spoil:
                    body = flipped(self.command, body)
                upstream = http.client.HTTPConnection(address, timeout=60)
                upstream.request(self.command, self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                data = announced = answer.read()
                if fault:
                    found = fault(self.command, data)
                    if not isinstance(found, bytes):
                        self._fail(found)
                        return
                    data = found
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, outer.etag if name.lower() == "etag" and outer.etag else value)
                length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(announced))
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(data)
                outer.bytes += len(data)
                self.close_connection = len(data) < len(announced)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one

            def _fail(self, status: int | None) -> None:
                self.close_connection = True
                if status is None:
                    return
                text = f"<Error><Code>{'SlowDown' if status == 503 else 'Trouble'}</Code></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/xml" if status == 503 else "text/plain")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def halved(method: str, body: bytes) -> bytes:
    return body[: len(body) // 2]


def flipped(method: str, body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body


def status(number: int) -> Fault:
    return lambda method, body: number


def closed(method: str, body: bytes) -> None:
    return None


@pytest.fixture
def proxy(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that the environment takes for the store; pauses are short."""
    proxy = Proxy(store.url)
    monkeypatch.setenv("S3_ENDPOINT", proxy.url)
    monkeypatch.setattr(objects, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(objects, "LONGEST_PAUSE_SECONDS", 0.05)
    yield proxy
    proxy.close()


def folder_of(root: Path, count: int, size: int) -> Path:
    """A folder with files of random bytes, some of them in folders of their own."""
    for number in range(count):
        path = root / f"part {number % 3}" / f"{number:03d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return root


def sums(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


# --- whole folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["s3", "minio"])
def test_a_folder_goes_there_and_back(scheme: str, store: Store, tmp_path: Path, capsys: Any) -> None:
    folder = folder_of(tmp_path / "folder", 20, 3000)
    (folder / "empty").write_bytes(b"")
    (folder / ("ü" * 127)).write_bytes(b"the longest name that there may be")
    uri = f"{scheme}://{BUCKET}/back/{scheme}"
    objects.upload_folder(folder, uri, "upload")
    objects.download_folder(uri + "/", tmp_path / "copy", "download")
    assert sums(tmp_path / "copy") == sums(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "folder"]
    said = capsys.readouterr().err
    assert "upload: 22/22 100 % files" in said and "download: 22/22 100 % files" in said


def test_folders_on_the_disk_too(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "folder", 5, 100)
    objects.upload_folder(folder, (tmp_path / "there").as_uri())
    objects.download_folder(str(tmp_path / "there"), tmp_path / "copy")
    assert sums(tmp_path / "copy") == sums(folder)


def test_a_manifest_is_written_last(proxy: Proxy, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "folder", 12, 10)
    (folder / "manifest.json").write_text("{}")
    objects.upload_folder(folder, f"s3://{BUCKET}/last")
    assert [request.rpartition("/")[2] for request in proxy.requests].index("manifest.json") == 12
    objects.download_folder(f"s3://{BUCKET}/last", tmp_path / "copy")  # a manifest of something else than a table
    assert sums(tmp_path / "copy") == sums(folder)


def test_large_files_go_in_parts(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PART_BYTES", 5 * 2**20)
    folder = folder_of(tmp_path / "folder", 1, 11 * 2**20)
    objects.upload_folder(folder, f"s3://{BUCKET}/large")
    (file,) = objects.list_files(f"s3://{BUCKET}/large")
    assert (file.size, file.version[32:]) == (11 * 2**20, "-3")
    objects.download_folder(f"s3://{BUCKET}/large", tmp_path / "copy")
    assert sums(tmp_path / "copy") == sums(folder)


def test_nothing_to_copy_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    with pytest.raises(KubefaceError, match="void holds nothing: check the folder"):
        objects.upload_folder(tmp_path / "void", f"s3://{BUCKET}/void")
    with pytest.raises(KubefaceError, match="s3://kubeface/void holds nothing: check the folder or prefix"):
        objects.download_folder(f"s3://{BUCKET}/void", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a//b", "./a"])
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "list_files", lambda uri: [objects.StoredFile(name, 1, "")])
    with pytest.raises(KubefaceError, match="cannot become a file below a folder: rename the object") as raised:
        objects.download_folder(f"s3://{BUCKET}/x", tmp_path / "copy")
    assert name in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_is_not_the_listed_one_is_named(face: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a store that knows no If-Match."""
    monkeypatch.setattr(objects, "list_files", lambda uri: [objects.StoredFile("face.bin", 7, "")])
    with pytest.raises(KubefaceError, match=f"{face} arrives with 300000 bytes where 7 were listed"):
        objects.download_folder(f"s3://{BUCKET}/spoilt", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("uri", ["gs://bucket/faces", "gs://bucket/faces.tar"])
def test_the_scheme_of_another_store_is_refused(uri: str, tmp_path: Path) -> None:
    for action in (
        lambda: objects.list_files(uri),
        lambda: objects.read_bytes(uri),
        lambda: objects.download_folder(uri, tmp_path / "copy"),
        lambda: objects.upload(tmp_path, uri),
    ):
        with pytest.raises(KubefaceError, match=f"{uri}: gs:// is not supported, give s3://"):
            action()


# --- a store that dies ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_transfers_survive_a_store_that_is_away_for_twenty_seconds(store: Store, tmp_path: Path) -> None:
    """Killed with SIGKILL in the middle of 200 objects on their way down and 200 on their way up."""
    down, up = folder_of(tmp_path / "down", 200, 100_000), folder_of(tmp_path / "up", 200, 100_000)
    objects.upload_folder(down, f"s3://{BUCKET}/outage/down")
    with ThreadPoolExecutor(2) as pool:
        transfers = [
            pool.submit(objects.upload_folder, up, f"s3://{BUCKET}/outage/up"),
            pool.submit(objects.download_folder, f"s3://{BUCKET}/outage/down", tmp_path / "copy"),
        ]
        while len(list(tmp_path.glob(".copy.partial/*/*.bin"))) < 30:
            time.sleep(0.005)
        store.kill()
        killed = time.monotonic()
        assert not (tmp_path / "copy").exists()
        time.sleep(5)
        store.start()
        away = time.monotonic() - killed
        assert not any(transfer.done() for transfer in transfers)
        for transfer in transfers:
            transfer.result()
    assert 15 < away < 70  # SeaweedFS needs most of that time to start after a kill
    assert sums(tmp_path / "copy") == sums(down)
    objects.download_folder(f"s3://{BUCKET}/outage/up", tmp_path / "copy of up")
    assert sums(tmp_path / "copy of up") == sums(up)


def test_a_store_that_stays_away_is_one_line_after_a_while(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert 60 <= objects.RETRY_SECONDS <= 90
    monkeypatch.setattr(objects, "RETRY_SECONDS", 2)
    objects.upload_folder(folder_of(tmp_path / "folder", 30, 10), f"s3://{BUCKET}/away")
    proxy.faults = [lambda method, body: body] * 10  # the listing and a few objects
    proxy.always = closed
    start = time.monotonic()
    with pytest.raises(SystemExit) as raised:
        exit_on_error(objects.download_folder, uri=f"s3://{BUCKET}/away", path=tmp_path / "copy")
    assert raised.value.code == 1
    assert 1.5 < time.monotonic() - start < 10
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"no S3 store answers at {proxy.url} for s3://kubeface/away/part" in said[0]
    assert "check S3_ENDPOINT and the network" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_is_refused_is_not_tried_again(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KubefaceError, match="nothing does not exist"):
        objects.read_bytes(f"s3://{BUCKET}/nothing")
    with pytest.raises(KubefaceError, match="bucket 'nowhere-at-all' does not exist"):
        objects.list_files("s3://nowhere-at-all/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(KubefaceError, match="refuses the access key"):
        objects.list_files(f"s3://{BUCKET}/x")
    proxy.faults = [status(403)]  # from something that is no S3 store
    with pytest.raises(KubefaceError, match="answers HTTP 403 for s3://kubeface/x, not as an S3 store does"):
        objects.list_files(f"s3://{BUCKET}/x")
    assert len(proxy.requests) == 4


# --- answers that are spoilt ------------------------------------------------------------------------------------------


@pytest.fixture
def face(store: Store, tmp_path: Path) -> str:
    """URI of an object of 300,000 bytes, which are in `face.bin` too."""
    (tmp_path / "face.bin").write_bytes(os.urandom(300_000))
    objects.upload(tmp_path / "face.bin", f"s3://{BUCKET}/spoilt/face.bin")
    return f"s3://{BUCKET}/spoilt/face.bin"


@pytest.mark.parametrize("fault", [halved, flipped, closed, status(503), status(500)])
def test_a_spoilt_answer_is_asked_for_again(fault: Fault, face: str, proxy: Proxy, tmp_path: Path) -> None:
    expected = (tmp_path / "face.bin").read_bytes()
    proxy.faults = [fault, fault]
    assert objects.read_bytes(face) == expected
    proxy.faults = [fault, fault]
    objects.download(face, tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == expected
    assert len(proxy.requests) == 6


@pytest.mark.parametrize("fault", [halved, closed, status(503), status(500)])
def test_a_spoilt_listing_is_asked_for_again(fault: Fault, face: str, proxy: Proxy) -> None:
    proxy.faults = [fault, fault]
    assert [file.name for file in objects.list_files(f"s3://{BUCKET}/spoilt")] == ["face.bin"]
    assert len(proxy.requests) == 3


@pytest.mark.parametrize("fault", [closed, status(503), status(500)])
def test_an_upload_without_a_good_answer_is_done_again(fault: Fault, proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "face.bin").write_bytes(os.urandom(1000))
    proxy.faults = [fault, fault]
    objects.upload(tmp_path / "face.bin", f"s3://{BUCKET}/again/face.bin")
    assert objects.read_bytes(f"s3://{BUCKET}/again/face.bin") == (tmp_path / "face.bin").read_bytes()
    assert len(proxy.requests) == 4


def test_an_upload_that_is_damaged_on_its_way_is_done_again(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "face.bin").write_bytes(os.urandom(1000))
    proxy.spoil_request = [True, True]
    objects.upload(tmp_path / "face.bin", f"s3://{BUCKET}/again/face.bin")
    assert objects.read_bytes(f"s3://{BUCKET}/again/face.bin") == (tmp_path / "face.bin").read_bytes()
    assert len(proxy.requests) == 4


def test_an_object_that_stays_damaged_is_named(face: str, proxy: Proxy, tmp_path: Path) -> None:
    proxy.always = lambda method, body: flipped(method, body) if len(body) == 300_000 else body
    for action in (
        lambda: objects.read_bytes(face),
        lambda: objects.download(face, tmp_path / "copy"),
        lambda: objects.download_folder(f"s3://{BUCKET}/spoilt", tmp_path / "copy"),
    ):
        with pytest.raises(KubefaceError, match=f"{face} arrives with MD5 .* where the store has .*, 4 times in a row"):
            action()
    assert [path.name for path in tmp_path.iterdir()] == ["face.bin"]
    assert len(proxy.requests) == 3 * objects.DAMAGED_ATTEMPTS + 1


def test_a_store_that_has_got_something_else_is_named(face: str, proxy: Proxy, tmp_path: Path) -> None:
    proxy.etag = f'"{"0" * 32}"'
    with pytest.raises(KubefaceError, match=f"{face} is stored with ETag 0+ where .* was sent, 4 times in a row"):
        objects.upload(tmp_path / "face.bin", face)


@pytest.mark.parametrize("etag", ['"abc"', f'"{"0" * 32}-2"'])
def test_an_etag_that_is_no_checksum_says_nothing(etag: str, face: str, proxy: Proxy, tmp_path: Path) -> None:
    proxy.etag = etag
    objects.upload(tmp_path / "face.bin", face)
    assert objects.read_bytes(face) == (tmp_path / "face.bin").read_bytes()


def test_the_etag_of_what_a_key_encrypts_is_no_checksum() -> None:
    etag = f'"{"0" * 32}"'
    assert objects._md5_of(etag, {}) == "0" * 32
    assert objects._md5_of(etag, {"x-amz-server-side-encryption": "AES256"}) == "0" * 32
    assert objects._md5_of(etag, {"x-amz-server-side-encryption": "aws:kms"}) == ""
    assert objects._md5_of(etag, {"x-amz-server-side-encryption-customer-algorithm": "AES256"}) == ""


def test_an_object_that_is_replaced_between_listing_and_reading_is_named(
    face: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = objects.list_files(f"s3://{BUCKET}/spoilt")
    (tmp_path / "face.bin").write_bytes(b"another")
    objects.upload(tmp_path / "face.bin", face)
    monkeypatch.setattr(objects, "list_files", lambda uri: before)
    with pytest.raises(KubefaceError, match=f"{face} was replaced while it was read: start again"):
        objects.download_folder(f"s3://{BUCKET}/spoilt", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


# --- tables in a store ------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A face table of 300 rows in three row groups, one shard."""
    with TableWriter(tmp_path / "faces", "faces", "test 1", {}) as writer:
        for number in range(300):
            names = {"image_id": f"{number:016x}", "identity": f"person {number % 7}", "source": f"{number}.png"}
            writer.add(names | {"image": os.urandom(9000), "width": 9, "height": 9, "content": "0", "phash": "0"})
        writer.reject("a, b.jpg", "empty_file")
    return tmp_path / "faces"


@pytest.fixture
def stored(written: Path, proxy: Proxy) -> str:
    """The table in the store."""
    objects.upload_folder(written, f"s3://{BUCKET}/faces")
    proxy.requests.clear()
    proxy.bytes = 0
    return f"s3://{BUCKET}/faces"


def test_a_table_in_a_store_is_the_table_on_the_disk(stored: str, written: Path) -> None:
    here, there = Table(written, "faces"), Table(stored, "faces")
    assert list(there.row_groups()) == list(here.row_groups())
    assert there.columns(["width", "identity"]) == here.columns(["width", "identity"])
    assert there.columns(["width", "identity"]).column_names == ["width", "identity"]
    assert (there.sha256, there.rejected(), there.rows, there.identities, there.manifest) == (
        here.sha256, here.rejected(), 300, 7, here.manifest,
    )  # fmt: skip
    with pytest.raises(KubefaceError, match="s3://kubeface/faces holds a 'faces' table where 'split' is needed"):
        Table(stored, "split")


def test_only_what_is_read_is_transferred(stored: str, proxy: Proxy) -> None:
    table = Table(stored, "faces")
    with open_shard(table.paths[0]) as file:
        assert file.num_row_groups == 3
        opening, proxy.requests[:] = len(proxy.requests), []
        proxy.bytes = 0
        assert len(file.read_row_group(1)) == 128
    assert opening <= 4
    assert len(proxy.requests) == 1
    assert 128 * 9000 < proxy.bytes < 128 * 10_000


@pytest.mark.parametrize("fault", [halved, closed, status(503)])
def test_a_broken_range_is_read_again(fault: Fault, stored: str, written: Path, proxy: Proxy) -> None:
    table = Table(stored, "faces")
    rows = []
    for group in table.row_groups():
        proxy.faults = [fault]
        rows += group
    assert rows == [row for group in Table(written, "faces").row_groups() for row in group]
    assert proxy.faults == [fault]  # the last one met no request


def test_a_damaged_range_is_found_by_the_checksum_of_its_page(stored: str, proxy: Proxy) -> None:
    table = Table(stored, "faces")
    with (
        pytest.raises(KubefaceError, match=r"shard-00000\.parquet cannot be read \(.*CRC"),
        open_shard(table.paths[0]) as file,
    ):
        proxy.faults = [flipped]
        file.read_row_group(1)


def test_a_shard_that_is_replaced_while_it_is_read_is_named(stored: str, written: Path) -> None:
    table = Table(stored, "faces")
    groups = table.row_groups()
    next(groups)
    objects.upload(written / "manifest.json", objects.join(stored, "shard-00000.parquet"))
    with pytest.raises(KubefaceError, match=r"shard-00000\.parquet was replaced while it was read"):
        list(groups)


def test_what_a_table_in_a_store_lacks_is_named(stored: str, written: Path, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"s3://kubeface/none/manifest\.json does not exist"):
        Table(f"s3://{BUCKET}/none", "faces")
    objects.upload(written / "manifest.json", f"s3://{BUCKET}/half/manifest.json")
    with pytest.raises(KubefaceError, match=r"half/shard-00000\.parquet is missing though the manifest lists it"):
        Table(f"s3://{BUCKET}/half", "faces")
    (tmp_path / "text").write_text("{")
    objects.upload(tmp_path / "text", f"s3://{BUCKET}/half/manifest.json")
    with pytest.raises(KubefaceError, match=r"half/manifest\.json is not valid JSON"):
        Table(f"s3://{BUCKET}/half", "faces")


def test_a_shard_that_is_not_the_manifests_is_not_taken(stored: str, written: Path, tmp_path: Path) -> None:
    """The store's own checksum is right, as it is for whatever was uploaded."""
    manifest = read_json(written / "manifest.json")
    manifest["shards"][0]["sha256"] = "0" * 64
    write_json(written / "manifest.json", manifest)
    objects.upload_folder(written, stored)
    with pytest.raises(KubefaceError, match=r"shard-00000\.parquet has SHA-256 .* where manifest\.json has 0{64}"):
        objects.download_folder(stored, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_remote_file_is_a_file(face: str, tmp_path: Path) -> None:
    data = (tmp_path / "face.bin").read_bytes()
    with open_ranged(face) as file:
        assert file.read(10) == data[:10]
        assert file.seek(-5, os.SEEK_END) == 299_995
        assert file.read() == data[-5:]
        assert file.read() == b""
        file.seek(100)
        file.seek(50, os.SEEK_CUR)
        assert (file.tell(), file.read(7)) == (150, data[150:157])
        with pytest.raises(OSError):
            file.seek(-1)
    with pytest.raises(KubefaceError, match="nothing does not exist"):
        open_ranged(f"s3://{BUCKET}/nothing")


def test_a_remote_file_goes_to_other_processes(face: str, tmp_path: Path) -> None:
    listed = objects.stat(face)
    file = pickle.loads(pickle.dumps(RemoteFile(face, listed.size, listed.version)))  # noqa: S301 - our own
    assert str(file) == face
    data = (tmp_path / "face.bin").read_bytes()
    objects.read_bytes(face)  # connections are open when the children are forked
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            with file.open() as opened:
                same = all(
                    opened.seek(place) == place and opened.read(999) == data[place : place + 999]
                    for place in range(number, 290_000, 7919)
                )
            os._exit(0 if same else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]
