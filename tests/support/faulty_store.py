"""A store that can be killed, and a proxy that spoils its answers."""

import hashlib
import http.client
import os
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubeface.storage import objects
from pipelines.local import store as store_module
from pipelines.local.store import free_ports
from tests.support.servers import Handler, LoopbackServer

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


@contextmanager
def in_force(environment: Mapping[str, str], bucket: str = BUCKET) -> Iterator[str]:
    """Has the environment describe a store while the block lasts, with a bucket, whose name it yields."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        objects.ensure_bucket(bucket)
        yield bucket


Fault = Callable[[str, bytes], bytes | int | None]


class _Handler(Handler):
    proxy: "Proxy"
    address: str
    protocol_version = "HTTP/1.1"

    def handle_one(self) -> None:
        with self.proxy.lock:
            self.proxy.requests.append(f"{self.command} {self.path}")
            fault = self.proxy.faults.pop(0) if self.proxy.faults else self.proxy.always
            spoil = self.proxy.spoil_request.pop(0) if self.proxy.spoil_request else False
        body = self.content()
        if spoil:
            body = flipped(self.command, body)
        upstream = http.client.HTTPConnection(self.address, timeout=60)
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
                self.send_header(name, self.proxy.etag if name.lower() == "etag" and self.proxy.etag else value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(announced))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data)
        self.proxy.bytes += len(data)
        self.close_connection = len(data) < len(announced)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one

    def _fail(self, status: int | None) -> None:
        self.close_connection = True
        if status is None:
            return
        text = f"<Error><Code>{'SlowDown' if status == 503 else 'Trouble'}</Code></Error>".encode()
        self.answer(status, text, Content_Type="application/xml" if status == 503 else "text/plain")


class Proxy(LoopbackServer):
    """Stands between client and store on loopback.

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
        self.lock = threading.Lock()
        super().__init__(type("_Handler", (_Handler,), {"proxy": self, "address": url.removeprefix("http://")}))


def halved(method: str, body: bytes) -> bytes:
    return body[: len(body) // 2]


def flipped(method: str, body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body


def status(number: int) -> Fault:
    return lambda method, body: number


def closed(method: str, body: bytes) -> None:
    return None


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
