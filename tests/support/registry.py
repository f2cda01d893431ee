"""A container registry on loopback, as little of it as pushing and pulling an image takes (OCI distribution-spec)."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from tests.support.servers import Handler, LoopbackServer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class _Handler(Handler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return super().content()
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
        path = self.folder / ("manifests" if kind == "manifests" else "blobs") / name
        if not path.is_file():
            return self.answer(404)
        return self.answer(200, path.read_bytes(), Content_Type=MANIFEST, Docker_Content_Digest=name)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.answer(202, Location=f"/v2/uploads/{os.urandom(8).hex()}")

    def do_PATCH(self) -> None:
        path = self.folder / "blobs" / self.path.rsplit("/", 1)[-1]
        path.write_bytes(self.content())
        self.answer(202, Location=self.path, Range=f"0-{path.stat().st_size - 1}")

    def do_PUT(self) -> None:
        body = self.content()
        if "/manifests/" in self.path:
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            (self.folder / "manifests" / digest).write_bytes(body)
            return self.answer(201, Docker_Content_Digest=digest)
        upload, _, digest = self.path.partition("?digest=")
        blobs = self.folder / "blobs"
        (blobs / upload.rsplit("/", 1)[-1]).rename(blobs / digest.replace("%3A", ":"))
        return self.answer(201)


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Runs a registry that keeps blobs/ and manifests/ by digest in a folder; yields its address.

    podman in this process's environment talks to it without TLS.
    """
    for name in ("blobs", "manifests"):
        (folder / name).mkdir()
    trusted = folder / "registries.conf"
    with LoopbackServer(type("_Handler", (_Handler,), {"folder": folder})) as server:
        address = server.url.removeprefix("http://")
        trusted.write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
        with patch.dict(os.environ, CONTAINERS_REGISTRIES_CONF=str(trusted)):
            yield address
