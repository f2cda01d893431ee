"""Files and objects by address: s3://bucket/key through the S3 API (SeaweedFS, MinIO, AWS), file:// and plain paths.

minio://bucket/key, as Kubeflow Pipelines writes it, is the same as s3://bucket/key.
"""

import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from minio.error import S3Error
from urllib3 import BaseHTTPResponse

from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.packed_lists import FileList, StoredFile
from kubeface.runtime.progress import Progress
from kubeface.storage.folders import new_folder
from kubeface.storage.s3 import (
    NOT_FOUND_CODES,
    DamagedTransfer,
    Result,
    client,
    endpoint,
    is_s3,
    md5_of_etag,
    readable_errors,
    split_s3,
    with_retries,
)

__all__ = ["client", "endpoint", "is_s3", "split_s3"]  # besides what is defined here

BLOCK_BYTES = 2**20
MANIFEST_FILE = "manifest.json"  # of a table; it stands for a whole folder, so that it is written last
TRANSFERS = 8  # objects that are copied at the same time
PART_BYTES = 32 * 2**20  # larger files are sent in parts of this size, one of which is in memory for every transfer


def local_path(uri: str) -> Path:
    """The path that a file:// URI or a plain path names.

    Raises:
        KubefaceError: a gs:// URI.
    """
    require(not uri.startswith("gs://"), f"{uri}: gs:// is not supported, give s3://, minio://, file:// or a path")
    return Path(unquote(urlsplit(uri).path)) if uri.startswith("file://") else Path(uri)


def join(uri: str, name: str) -> str:
    """The URI of a file below a folder or a prefix."""
    return f"{uri.rstrip('/')}/{name}"


def read_bytes(uri: str) -> bytes:
    """The content of one file or object."""
    if not is_s3(uri):
        try:
            return local_path(uri).read_bytes()
        except OSError as error:
            raise KubefaceError(f"{uri} cannot be read: {error.strerror}") from error
    body = io.BytesIO()
    with_retries(uri, lambda: copy_object(uri, body))
    return body.getvalue()


def read_range(uri: str, offset: int, length: int, version: str) -> bytes:
    """The `length` bytes (1 or more) from `offset` on of an object of an S3 store that has this ETag.

    Raises:
        KubefaceError: the object is not there or was replaced, or the store refuses or does not answer.
    """

    def read() -> bytes:
        with open_object(uri, version, offset, length) as response:
            data: bytes = response.read(decode_content=False)
        if len(data) != length:
            raise DamagedTransfer(f"gives {len(data)} bytes where {length} were asked for")
        return data

    return with_retries(uri, read)


def read_with_etag(uri: str) -> tuple[bytes, str] | None:
    """Content of one file or object, and the ETag that `replace` compares; None where there is none.

    Of a local file the ETag is its SHA-256.

    Raises:
        KubefaceError: it cannot be read, or the store refuses or does not answer.
    """
    if not is_s3(uri):
        try:
            data = local_path(uri).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise KubefaceError(f"{uri} cannot be read: {error.strerror}") from error
        return data, hashlib.sha256(data).hexdigest()
    body = io.BytesIO()
    etag = _unless_absent(uri, lambda: copy_object(uri, body))
    return None if etag is None else (body.getvalue(), etag)


def _unless_absent(uri: str, action: Callable[[], Result]) -> Result | None:
    """What an action on an object gives; None where there is no such object."""

    def attempt() -> Result | None:
        try:
            return action()
        except S3Error as error:
            if error.code in NOT_FOUND_CODES:
                return None
            raise

    return with_retries(uri, attempt)


def replace(uri: str, data: bytes, etag: str) -> bool:
    """Compare and swap: writes a small file or object only if it still has this ETag; says whether it did.

    Of several writers at the same moment, one wins. In an S3 store this is a conditional write (PutObject with If-Match
    or If-None-Match), which `supports_conditional_writes` checks for. In a folder it is a lock on a file beside it
    (flock(2), which NFS 4 has too).

    Args:
        data: the new content; it must differ from what others would write.
        etag: of the content that is to be replaced, from `read_with_etag`; empty if there must be none.

    Raises:
        KubefaceError: it cannot be written, or the store refuses or does not answer.
    """
    if not is_s3(uri):
        return _replace_local(local_path(uri), data, etag)
    if _put_if(uri, data, etag):
        return True
    # A write whose answer was lost on the way is sent again, and then finds its own work in the way.
    found = read_with_etag(uri)
    return found is not None and found[0] == data


def _put_if(uri: str, data: bytes, etag: str) -> bool:
    bucket, key = split_s3(uri)
    condition = {"If-Match": f'"{etag}"'} if etag else {"If-None-Match": "*"}

    def put() -> bool:
        try:
            # The public put_object turns every header that it does not know into metadata.
            client()._put_object(bucket, key, data, headers={"Content-Type": "application/json", **condition})
        except S3Error as error:
            if error.code == "PreconditionFailed" or (etag and error.code in NOT_FOUND_CODES - {"NoSuchBucket"}):
                return False
            raise
        return True

    return with_retries(uri, put)


def _replace_local(path: Path, data: bytes, etag: str) -> bool:
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f".{path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = read_with_etag(str(path))
            if (found[1] if found else "") != etag:
                return False
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        raise KubefaceError(f"{path} cannot be written: {error.strerror}") from error
    return True


def supports_conditional_writes(uri: str) -> bool:
    """Whether the store honours the conditions that `replace` relies on; a folder always does.

    Asks the store to create an object that exists already, with the bytes that it has: a store that accepts ignores
    conditions, as MinIO did until May 2024 (minio/minio#19681).

    Raises:
        KubefaceError: there is no such (small) file or object, or the store refuses or does not answer.
    """
    return not is_s3(uri) or not _put_if(uri, read_bytes(uri), "")


def copy_object(uri: str, file: BinaryIO, version: str = "", sha256: str = "") -> str:
    """Copies an object over what an open file holds, once, and compares checksums; returns its ETag.

    `version` is the ETag that it must have, `sha256` the SHA-256; empty for any.
    """
    file.seek(0)
    file.truncate()
    md5, sha = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with open_object(uri, version) as response:
        for block in response.stream(BLOCK_BYTES, decode_content=False):
            file.write(block)
            md5.update(block)
            if sha256:
                sha.update(block)
        etag = response.headers.get("ETag", "")
        promised = md5_of_etag(etag, response.headers)
    if promised not in ("", md5.hexdigest()):
        raise DamagedTransfer(f"arrives with MD5 {md5.hexdigest()} where the store has {promised}")
    if sha256 and sha256 != sha.hexdigest():
        raise DamagedTransfer(f"has SHA-256 {sha.hexdigest()} where {MANIFEST_FILE} has {sha256}")
    return etag.strip('"')


@contextmanager
def open_object(uri: str, version: str = "", offset: int = 0, length: int = 0) -> Iterator[BaseHTTPResponse]:
    """The store's answer to a request for an object; for `length` bytes from `offset` on, or all where it is 0."""
    condition = {"If-Match": f'"{version}"'} if version else {}
    response = client().get_object(*split_s3(uri), offset, length, request_headers=dict(condition))
    try:
        yield response
    finally:
        response.close()
        response.release_conn()


def list_files(uri: str) -> FileList:
    """Every file below a folder or an s3:// prefix, sorted by name; links are not followed out of a folder.

    Raises:
        KubefaceError: the folder, the bucket or the store is not there, or the key is refused.
    """
    if not is_s3(uri):
        root = local_path(uri)
        if not root.is_dir():
            raise KubefaceError(f"{root} is not a folder: give a folder, an archive or an s3:// prefix")
        return FileList.of(_files_below(root))
    bucket, key = split_s3(uri)
    prefix = key if not key or key.endswith("/") else key + "/"

    def listed() -> FileList:
        return FileList.of(
            StoredFile((item.object_name or "").removeprefix(prefix), item.size or 0, (item.etag or "").strip('"'))
            for item in client().list_objects(bucket, prefix=prefix, recursive=True)
            if not item.is_dir
        )

    return with_retries(uri, listed)


def _files_below(root: Path) -> Iterator[StoredFile]:
    inside = root.resolve()
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            if path.resolve().is_relative_to(inside) and path.is_file():
                stat = path.stat()
                yield StoredFile(path.relative_to(root).as_posix(), stat.st_size, str(stat.st_mtime_ns))


def exists(uri: str) -> bool:
    """Whether there is such a file or object; a bucket that does not exist holds none."""
    if not is_s3(uri):
        return local_path(uri).is_file()
    return _unless_absent(uri, lambda: client().stat_object(*split_s3(uri))) is not None


def ensure_bucket(bucket: str) -> None:
    """Makes the bucket unless it is there."""
    with_retries(f"s3://{bucket}", lambda: client().bucket_exists(bucket) or client().make_bucket(bucket))


def download(uri: str, path: Path, version: str = "", sha256: str = "") -> None:
    """Copies one file or object to a local path; the path appears only when it is whole.

    Args:
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
    # A name of its own: two that write the same file at the same moment must not share what is half written.
    partial = target.with_name(f".{uuid4().hex}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_file(path, partial)
        partial.replace(target)
    except OSError as error:
        raise KubefaceError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def download_folder(uri: str, path: Path, step: str = "") -> None:
    """Copies a folder or an s3:// prefix to a local folder, which appears only when it is whole.

    Every object is the version that was listed, and has the size and the checksum that the store gives; the shards of a
    table have the SHA-256 of its manifest besides.

    Args:
        path: the new folder; it may exist if it is empty.
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
            source, name = join(uri, file.name), PurePosixPath(file.name)
            require(
                name.as_posix() == file.name and not name.is_absolute() and ".." not in name.parts,
                f"{source} cannot become a file below a folder: rename the object",
            )
            target = folder / name
            with readable_errors(source):
                target.parent.mkdir(parents=True, exist_ok=True)
            download(source, target, file.version if is_s3(uri) else "", shards.get(file.name, ""))
            size = target.stat().st_size
            require(size == file.size, f"{source} arrives with {size} bytes where {file.size} were listed: start again")

        _in_parallel(fetch, files, step)


def upload_folder(path: Path, uri: str, step: str = "") -> None:
    """Copies a local folder to a folder or an s3:// prefix; links that lead out of it are left out.

    What stands there under other names stays. A manifest.json is written last: who finds it finds all that it lists.
    Progress is shown under the name `step`, unless it is empty.

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
