"""Copies of files and folders between the local disk and an S3 store, whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext, suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.packed_lists import StoredFile
from kubeface.runtime.progress import Progress
from kubeface.storage.addresses import is_s3, join, local_path, split_s3
from kubeface.storage.contents import MANIFEST_FILE, copy_object, read_bytes
from kubeface.storage.folders import new_folder
from kubeface.storage.listing import list_files
from kubeface.storage.s3 import DamagedTransfer, client, md5_of_etag, readable_errors, with_retries

TRANSFERS = 8  # objects that are copied at the same time
PART_BYTES = 32 * 2**20  # larger files are sent in parts of this size, one of which is in memory for every transfer


def download(uri: str, path: Path, version: str = "", sha256: str = "") -> None:
    """Copies one file or object to a local path; the path appears only when it is whole.

    Args:
        uri: what to copy.
        path: where to.
        version: ETag that the object must have; empty for any.
        sha256: that the object must have; empty where only the store's own checksum counts.

    Raises:
        KubefaceError: it is not there, was replaced, arrives damaged, or the store does not answer.
    """
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()  # a name may be as long as names may be
    partial = path.with_name(f".{digest[:16]}.partial")
    try:
        if is_s3(uri):
            with readable_errors(uri), open(partial, "wb") as file:
                with_retries(uri, lambda: copy_object(uri, file, version, sha256))
        else:
            _copy_file(local_path(uri), partial)
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def upload(path: Path, uri: str, content_type: str = "application/octet-stream") -> None:
    """Copies a local file to an s3:// URI, a file:// URI or a path, and holds what the store got to its checksum.

    Raises:
        KubefaceError: the file cannot be read, it arrives damaged, or the store refuses it or does not answer.
    """
    if is_s3(uri):
        with readable_errors(uri):
            expected = _multipart_etag(path)
        with_retries(uri, lambda: _put_file(path, uri, content_type, expected))
        return
    target = local_path(uri)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KubefaceError(f"{target} cannot be written: {error.strerror}") from error
    # A name of its own: two that write the same file at the same moment must not share what is half written.
    partial = target.with_name(f".{uuid4().hex}.partial")
    try:
        _copy_file(path, partial)
        _move_into_place(partial, target)
    finally:
        with suppress(OSError):
            partial.unlink()


def download_folder(uri: str, path: Path, step: str = "") -> None:
    """Copies a folder or an s3:// prefix to a local folder, which appears only when it is whole.

    Every object is the version that was listed, and has the size and the checksum that the store gives; the shards of a
    table have the SHA-256 of its manifest besides.

    Args:
        uri: folder or prefix.
        path: the new folder; it may be there if it is empty.
        step: name to show progress under; empty for none.

    Raises:
        KubefaceError: there is nothing, an object's name leads out of the folder, an object is damaged or was replaced,
            or the store does not answer.
    """
    files = list_files(uri)
    require(bool(files), f"{uri} holds nothing: check the folder or prefix")
    shards = _shard_checksums(uri) if any(file.name == MANIFEST_FILE for file in files) else {}
    with new_folder(path) as folder:

        def fetch(file: StoredFile) -> None:
            source, target = join(uri, file.name), folder / _relative_path(uri, file.name)
            with readable_errors(source):
                target.parent.mkdir(parents=True, exist_ok=True)
            download(source, target, file.version if is_s3(uri) else "", shards.get(file.name, ""))
            size = target.stat().st_size
            require(size == file.size, f"{source} arrives with {size} bytes where {file.size} were listed: start again")

        _in_parallel(fetch, files, step)


def upload_folder(path: Path, uri: str, step: str = "") -> None:
    """Copies a local folder to a folder or an s3:// prefix; links that lead out of it are left out.

    What stands there under other names stays. A manifest.json is written last: who finds it finds all that it lists.

    Args:
        path: folder.
        uri: folder or prefix.
        step: name to show progress under; empty for none.

    Raises:
        KubefaceError: the folder is empty or cannot be read, a file arrives damaged, or the store refuses it or does
            not answer.
    """
    files = list_files(str(path))
    require(bool(files), f"{path} holds nothing: check the folder")
    last = [file for file in files if file.name == MANIFEST_FILE]

    def send(file: StoredFile) -> None:
        upload(path / file.name, join(uri, file.name))

    _in_parallel(send, [file for file in files if file not in last], step)
    for file in last:
        send(file)


def _in_parallel(action: Callable[[StoredFile], None], files: Sequence[StoredFile], step: str) -> None:
    """Does something with each of some files, TRANSFERS at a time; the first error ends it."""
    with (
        ThreadPoolExecutor(TRANSFERS) as pool,
        Progress(step, len(files), "files") if step else nullcontext() as progress,
    ):
        try:
            for done in as_completed([pool.submit(action, file) for file in files]):
                done.result()
                if progress:
                    progress.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _relative_path(uri: str, name: str) -> PurePosixPath:
    """An object's name as a path below a folder."""
    path = PurePosixPath(name)
    require(
        path.as_posix() == name and not path.is_absolute() and ".." not in path.parts,
        f"{join(uri, name)} cannot become a file below a folder: rename the object",
    )
    return path


def _shard_checksums(uri: str) -> dict[str, str]:
    """SHA-256 by name of what a table's manifest lists; nothing where the manifest is another one."""
    try:
        return {shard["name"]: shard["sha256"] for shard in json.loads(read_bytes(join(uri, MANIFEST_FILE)))["shards"]}
    except (ValueError, KeyError, TypeError):
        return {}


def _copy_file(path: Path, target: Path) -> None:
    try:
        shutil.copyfile(path, target)
    except OSError as error:
        named = Path(error.filename or target)
        raise KubefaceError(f"{named} cannot be {'read' if named == path else 'written'}: {error.strerror}") from error


def _move_into_place(partial: Path, target: Path) -> None:
    try:
        partial.replace(target)
    except OSError as error:
        raise KubefaceError(f"{target} cannot be written: {error.strerror}") from error


def _put_file(path: Path, uri: str, content_type: str, expected: str) -> None:
    bucket, key = split_s3(uri)
    sent = client().fput_object(
        bucket, key, str(path), content_type=content_type, part_size=PART_BYTES, num_parallel_uploads=1
    )
    etag, _, parts = (sent.etag or "").strip('"').partition("-")
    got = md5_of_etag(etag, sent.http_headers or {})
    wanted, _, wanted_parts = expected.partition("-")
    if got not in ("", wanted) and parts == wanted_parts:
        raise DamagedTransfer(f"is stored with ETag {sent.etag} where {expected} was sent")


def _multipart_etag(path: Path) -> str:
    """The ETag that S3 gives to a file: its MD5, or that of its parts' MD5s and how many they are."""
    with open(path, "rb") as file:
        sums = [hashlib.md5(part, usedforsecurity=False) for part in iter(lambda: file.read(PART_BYTES), b"")]
    if len(sums) == 1:
        return sums[0].hexdigest()
    whole = hashlib.md5(b"".join(part.digest() for part in sums), usedforsecurity=False).hexdigest()
    return f"{whole}-{len(sums)}" if sums else whole
