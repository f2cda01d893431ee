"""A container registry on loopback, as little of it as pushing and pulling an image takes (OCI distribution-spec)."""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_GET(self) -> None:
        if self.path == "/v2/":
            return self._answer(200)
        kind, name = self.path.split("/")[-2:]
        path = self.folder / ("manifests" if kind == "manifests" else "blobs") / name
        if not path.is_file():
            return self._answer(404)
        return self._answer(200, path.read_bytes(), Content_Type=MANIFEST, Docker_Content_Digest=name)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(202, Location=f"/v2/uploads/{os.urandom(8).hex()}")

    def do_PATCH(self) -> None:
        path = self.folder / "blobs" / self.path.rsplit("/", 1)[-1]
        path.write_bytes(self._content())
        self._answer(202, Location=self.path, Range=f"0-{path.stat().st_size - 1}")

    def do_PUT(self) -> None:
        body = self._content()
        if "/manifests/" in self.path:
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            (self.folder / "manifests" / digest).write_bytes(body)
            return self._answer(201, Docker_Content_Digest=digest)
        upload, _, digest = self.path.partition("?digest=")
        blobs = self.folder / "blobs"
        (blobs / upload.rsplit("/", 1)[-1]).rename(blobs / digest.replace("%3A", ":"))
        return self._answer(201)


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Runs a registry that keeps blobs/ and manifests/ by digest in a folder; yields its address.

    podman in this process's environment talks to it without TLS.
    """
    for name in ("blobs", "manifests"):
        (folder / name).mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"folder": folder}))
    address = f"127.0.0.1:{server.server_port}"
    trusted = folder / "registries.conf"
    trusted.write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with patch.dict(os.environ, CONTAINERS_REGISTRIES_CONF=str(trusted)):
            yield address
    finally:
        server.shutdown()
        server.server_close()
