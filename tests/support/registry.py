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


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Runs a registry that keeps blobs/ and manifests/ by digest in a folder; yields its address.

    podman in this process's environment talks to it without TLS.
    """
    blobs, manifests = folder / "blobs", folder / "manifests"
    blobs.mkdir()
    manifests.mkdir()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def content(self) -> bytes:
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
                return self.answer(200)
            kind, name = self.path.split("/")[-2:]
            path = (manifests if kind == "manifests" else blobs) / name
            if not path.is_file():
                return self.answer(404)
            return self.answer(200, path.read_bytes(), Content_Type=MANIFEST, Docker_Content_Digest=name)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            self.answer(202, Location=f"/v2/uploads/{os.urandom(8).hex()}")

        def do_PATCH(self) -> None:
            path = blobs / self.path.rsplit("/", 1)[-1]
            path.write_bytes(self.content())
            self.answer(202, Location=self.path, Range=f"0-{path.stat().st_size - 1}")

        def do_PUT(self) -> None:
            body = self.content()
            if "/manifests/" in self.path:
                digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
                (manifests / digest).write_bytes(body)
                return self.answer(201, Docker_Content_Digest=digest)
            upload, _, digest = self.path.partition("?digest=")
            path = blobs / upload.rsplit("/", 1)[-1]
            path.rename(blobs / digest.replace("%3A", ":"))
            return self.answer(201)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
