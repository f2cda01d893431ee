"""Contents of one file or object: read whole, in part or with its ETag; replaced by compare and swap."""

import fcntl
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from minio.error import S3Error
from urllib3 import BaseHTTPResponse

from kubeface.runtime.errors import KubefaceError
from kubeface.storage.addresses import is_s3, local_path, split_s3
from kubeface.storage.s3 import NOT_FOUND_CODES, DamagedTransfer, client, md5_of_etag, with_retries

BLOCK_BYTES = 2**20
MANIFEST_FILE = "manifest.json"  # of a table; it stands for a whole folder, so that it is written last


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
    """Bytes out of the middle of an object of an S3 store.

    Args:
        uri: of the object.
        offset: of the first byte.
        length: number of bytes, at least 1; all of them must be there.
        version: ETag that the object must have.

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

    def read() -> str | None:
        try:
            return copy_object(uri, body)
        except S3Error as error:
            if error.code in NOT_FOUND_CODES:
                return None
            raise

    etag = with_retries(uri, read)
    return None if etag is None else (body.getvalue(), etag)


def replace(uri: str, data: bytes, etag: str) -> bool:
    """Compare and swap: writes a small file or object only if it still has this ETag.

    Of several writers at the same moment, one wins. In an S3 store this is a conditional write (PutObject with If-Match
    or If-None-Match), which `supports_conditional_writes` checks for. In a folder it is a lock on a file beside it
    (flock(2), which NFS 4 has too).

    Args:
        uri: what to replace.
        data: the new content; it must differ from what others would write.
        etag: of the content that is to be replaced, from `read_with_etag`; empty if there must be none.

    Returns:
        whether it was replaced.

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

    Args:
        uri: of a small file or object that is there.

    Raises:
        KubefaceError: there is none, or the store refuses or does not answer.
    """
    return not is_s3(uri) or not _put_if(uri, read_bytes(uri), "")


def copy_object(uri: str, file: BinaryIO, version: str = "", sha256: str = "") -> str:
    """Copies an object into an open file, once, and compares checksums.

    Args:
        uri: of the object.
        file: what it holds is overwritten.
        version: ETag that the object must have; empty for any.
        sha256: that the object must have; empty where only the store says what it should be.

    Returns:
        Its ETag.
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
