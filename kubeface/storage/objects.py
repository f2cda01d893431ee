"""Objects by URI: s3://bucket/key through the S3 API (SeaweedFS, MinIO, AWS), file:// and plain paths.

minio://bucket/key, as Kubeflow Pipelines writes it, is the same as s3://bucket/key.

The store is named by the environment: S3_ENDPOINT (http://host:port; AWS where it is not set),
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION and S3_CA_BUNDLE.

A store that does not answer, breaks off or is overloaded is asked again for RETRY_SECONDS; what it refuses is an error
at once. An object that arrives with another checksum than the store gives for it is fetched again a few times.
"""

import fcntl
import hashlib
import io
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from itertools import count
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import urllib3
from minio import Minio
from minio.credentials.providers import EnvAWSProvider, IamAwsProvider
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.packed_lists import FileList, StoredFile
from kubeface.runtime.progress import Progress
from kubeface.storage.folders import new_folder

CONNECT_SECONDS, READ_SECONDS = 5, 30
# A pod of the store that dies is back on another node within a minute, mostly.
RETRY_SECONDS = 75.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0
DAMAGED_ATTEMPTS = 4
TRANSFERS = 8  # objects that are copied at the same time
BLOCK_BYTES = 2**20
PART_BYTES = 32 * 2**20  # larger files are sent in parts of this size, one of which is in memory for every transfer

_S3_SCHEMES = ("s3://", "minio://")
_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"}
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
_PASSING_CODES = {
    "SlowDown",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "IncompleteBody",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "ConditionalRequestConflict",  # AWS: another write was under way; the condition has yet to be looked at
}
_ABSENT = {"NoSuchKey", "NoSuchObject", "NoSuchBucket", "ResourceNotFound"}
_MANIFEST = "manifest.json"  # of a table; it stands for a whole folder, so that it is written last


def is_s3(uri: str) -> bool:
    """Whether the URI names something in an S3 store."""
    return uri.startswith(_S3_SCHEMES)


def local_path(uri: str) -> Path:
    """The path that a file:// URI or a plain path names.

    Raises:
        KubefaceError: a gs:// URI.
    """
    require(not uri.startswith("gs://"), f"{uri}: gs:// is not supported, give s3://, minio://, file:// or a path")
    return Path(unquote(urlsplit(uri).path)) if uri.startswith("file://") else Path(uri)


def split_s3(uri: str) -> tuple[str, str]:
    """Bucket and key of an s3:// or minio:// URI.

    Raises:
        KubefaceError: there is no bucket in it.
    """
    bucket, _, key = uri.partition("://")[2].partition("/")
    require(bool(bucket), f"'{uri}' names no bucket: write s3://bucket/prefix")
    return bucket, key


def endpoint() -> str:
    """The S3 endpoint in force, as a URL."""
    return os.environ.get("S3_ENDPOINT") or "https://s3.amazonaws.com"


@cache
def _client(url: str, region: str | None, authority: str | None, key_id: str | None, process: int) -> Minio:
    """One client for each endpoint, key and process; `process` is there to tell them apart.

    A worker that is forked must not speak on its parent's connections.
    """
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise KubefaceError(f"S3_ENDPOINT is '{url}': write it as http://host:port or https://host")
    return Minio(
        endpoint=parts.netloc,
        secure=parts.scheme == "https",
        region=region or "us-east-1",
        credentials=EnvAWSProvider() if key_id else IamAwsProvider(),
        http_client=urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            maxsize=16,
            retries=False,  # _retried sees to it, and for broken bodies too
            ca_certs=authority,
        ),
    )


def client() -> Minio:
    """The S3 client that the environment describes."""
    env = os.environ.get
    authority = env("S3_CA_BUNDLE") or env("SSL_CERT_FILE")
    key_id = env("AWS_ACCESS_KEY_ID") or env("AWS_ACCESS_KEY")
    return _client(endpoint(), env("AWS_REGION"), authority, key_id, os.getpid())


class _Damaged(Exception):
    """What arrived differs from what was sent; the message says how."""


@contextmanager
def _one_line(uri: str) -> Iterator[None]:
    """Turns what the S3 client raises into one line that says what to do."""
    try:
        yield
    except S3Error as error:
        raise KubefaceError(_refusal(uri, error)) from error
    except (InvalidResponseError, ServerError) as error:
        raise KubefaceError(f"{endpoint()} answers HTTP {_status(error)} for {uri}, not as an S3 store does") from error
    except urllib3.exceptions.HTTPError as error:
        raise KubefaceError(
            f"no S3 store answers at {endpoint()} for {uri} ({type(error).__name__}): check S3_ENDPOINT and the network"
        ) from error
    except SyntaxError as error:  # xml.etree's ParseError
        raise KubefaceError(f"{endpoint()} answers something else than XML for {uri}: is it an S3 store?") from error
    except _Damaged as error:
        raise KubefaceError(
            f"{uri} {error}, {DAMAGED_ATTEMPTS} times in a row: check the store and the network"
        ) from error
    except OSError as error:
        raise KubefaceError(f"{error.filename or uri} cannot be copied: {error.strerror or error}") from error
    except ValueError as error:  # bucket and key names that the client refuses
        raise KubefaceError(f"{uri} cannot be used: {error}") from error


def _refusal(uri: str, error: S3Error) -> str:
    """What an answer of the store means for the user."""
    bucket, key = split_s3(uri)
    if error.code in _REFUSED:
        return (
            f"the S3 store at {endpoint()} refuses the access key for {uri} ({error.code}): "
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if error.code == "NoSuchBucket":
        return f"bucket '{bucket}' does not exist at {endpoint()}: create it or correct {uri}"
    if error.code in ("NoSuchKey", "NoSuchObject", "ResourceNotFound"):
        return f"{uri} does not exist at {endpoint()}: check the key '{key}'"
    if error.code == "PreconditionFailed":
        return f"{uri} was replaced while it was read: start again"
    return f"the S3 store at {endpoint()} answers {error.code} for {uri}: {error.message}"


def _status(error: Exception) -> int:
    """The HTTP status behind an error of the client; 0 where there is none."""
    if isinstance(error, S3Error):
        return int(error.response.status)
    return int(getattr(error, "status_code", 0) or getattr(error, "_code", 0))


def _may_pass(error: Exception) -> bool:
    """Whether the same request may go well a little later."""
    if isinstance(error, MinioException):
        return _status(error) in _PASSING_STATUS or getattr(error, "code", "") in _PASSING_CODES
    return not isinstance(error, urllib3.exceptions.SSLError | urllib3.exceptions.LocationValueError)


Result = TypeVar("Result")


def _retried(uri: str, action: Callable[[], Result]) -> Result:
    """Does something with an object, again and again for RETRY_SECONDS while the store is in trouble.

    The pauses double from FIRST_PAUSE_SECONDS to LONGEST_PAUSE_SECONDS, each shortened by up to a half at random so
    that many readers do not come back at the same moment.
    """
    end, pause = time.monotonic() + RETRY_SECONDS, FIRST_PAUSE_SECONDS
    with _one_line(uri):
        for attempt in count(1):
            try:
                return action()
            except _Damaged:
                if attempt >= DAMAGED_ATTEMPTS:
                    raise
            except (MinioException, urllib3.exceptions.HTTPError) as error:
                if not _may_pass(error) or time.monotonic() + pause > end:
                    raise
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    raise AssertionError("the loop above ends with a result or an error")


def list_files(uri: str) -> FileList:
    """Every file below a folder or an s3:// prefix, sorted by name; links are not followed out of a folder.

    Raises:
        KubefaceError: the folder, the bucket or the store is not there, or the key is refused.
    """
    if not is_s3(uri):
        root = local_path(uri)
        if not root.is_dir():
            raise KubefaceError(f"{root} is not a folder: give a folder, an archive or an s3:// prefix")
        return FileList.of(_walk(root))
    bucket, key = split_s3(uri)
    prefix = key if not key or key.endswith("/") else key + "/"

    def listed() -> FileList:
        return FileList.of(
            StoredFile((item.object_name or "").removeprefix(prefix), item.size or 0, (item.etag or "").strip('"'))
            for item in client().list_objects(bucket, prefix=prefix, recursive=True)
            if not item.is_dir
        )

    return _retried(uri, listed)


def _walk(root: Path) -> Iterator[StoredFile]:
    inside = root.resolve()
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            if path.resolve().is_relative_to(inside) and path.is_file():
                stat = path.stat()
                yield StoredFile(path.relative_to(root).as_posix(), stat.st_size, str(stat.st_mtime_ns))


def read_marked(uri: str) -> tuple[bytes, str] | None:
    """Content of one file or object, and the mark that `replace` knows it by; None where there is none.

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
    bucket, key = split_s3(uri)

    def read() -> tuple[bytes, str] | None:
        try:
            response = client().get_object(bucket, key)
        except S3Error as error:
            if error.code in _ABSENT:
                return None
            raise
        try:
            found: bytes = response.read(decode_content=False)
            etag = response.headers.get("ETag", "")
            promised = _md5_of(etag, response.headers)
        finally:
            response.close()
            response.release_conn()
        if promised not in ("", md5 := hashlib.md5(found, usedforsecurity=False).hexdigest()):
            raise _Damaged(f"arrives with MD5 {md5} where the store has {promised}")
        return found, etag.strip('"')

    return _retried(uri, read)


def replace(uri: str, data: bytes, mark: str) -> bool:
    """Compare and swap: writes a small file or object only if it is still the one with this mark.

    Of several that replace the same one at the same moment, one wins. In an S3 store this is a conditional write
    (PutObject with If-Match or If-None-Match); see `keeps_conditions` for stores that do not know it. In a folder it is
    a lock on a file beside it (flock(2), which NFS 4 has too).

    Args:
        uri: what to replace.
        data: the new content; it must differ from what others would write.
        mark: of the content that is to be replaced, from `read_marked`; empty if there must be none.

    Returns:
        whether it was replaced.

    Raises:
        KubefaceError: it cannot be written, or the store refuses or does not answer.
    """
    if not is_s3(uri):
        return _replace_local(local_path(uri), data, mark)
    if _put_if(uri, data, mark):
        return True
    # A write whose answer was lost on the way is sent again, and then finds its own work in the way.
    found = read_marked(uri)
    return found is not None and found[0] == data


def _put_if(uri: str, data: bytes, mark: str) -> bool:
    bucket, key = split_s3(uri)
    condition = {"If-Match": f'"{mark}"'} if mark else {"If-None-Match": "*"}

    def put() -> bool:
        try:
            # The public put_object turns every header that it does not know into metadata.
            client()._put_object(bucket, key, data, headers={"Content-Type": "application/json", **condition})
        except S3Error as error:
            if error.code == "PreconditionFailed" or (mark and error.code in _ABSENT - {"NoSuchBucket"}):
                return False
            raise
        return True

    return _retried(uri, put)


def _replace_local(path: Path, data: bytes, mark: str) -> bool:
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f".{path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = read_marked(str(path))
            if (found[1] if found else "") != mark:
                return False
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        raise KubefaceError(f"{path} cannot be written: {error.strerror}") from error
    return True


def keeps_conditions(uri: str) -> bool:
    """Whether the store looks at the conditions that `replace` rests on; a folder always does.

    Asks the store to create an object that is there already, with the bytes that it has: a store that does so pays no
    heed to conditions, as MinIO until May 2024 (minio/minio#19681).

    Args:
        uri: of a small file or object that is there.

    Raises:
        KubefaceError: there is none, or the store refuses or does not answer.
    """
    return not is_s3(uri) or not _put_if(uri, read_bytes(uri), "")


def join(uri: str, name: str) -> str:
    """The URI of a file below a folder or a prefix."""
    return f"{uri.rstrip('/')}/{name}"


def exists(uri: str) -> bool:
    """Whether there is such a file or object; a bucket that does not exist holds none."""
    if not is_s3(uri):
        return local_path(uri).is_file()
    bucket, key = split_s3(uri)

    def found() -> bool:
        try:
            client().stat_object(bucket, key)
        except S3Error as error:
            if error.code in _ABSENT:
                return False
            raise
        return True

    return _retried(uri, found)


def read_bytes(uri: str) -> bytes:
    """The content of one file or object."""
    if not is_s3(uri):
        try:
            return local_path(uri).read_bytes()
        except OSError as error:
            raise KubefaceError(f"{uri} cannot be read: {error.strerror}") from error
    body = io.BytesIO()
    _retried(uri, lambda: _copy(uri, body))
    return body.getvalue()


def _copy(uri: str, file: BinaryIO, version: str = "", sha256: str = "") -> None:
    """Copies an object into an open file, once, and compares checksums.

    Args:
        uri: of the object.
        file: what it holds is written over.
        version: ETag that the object must have; empty for any.
        sha256: that the object must have; empty where only the store says what it should be.
    """
    bucket, key = split_s3(uri)
    file.seek(0)
    file.truncate()
    md5, sha = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    response = client().get_object(bucket, key, request_headers=_only(version))
    try:
        for block in response.stream(BLOCK_BYTES, decode_content=False):
            file.write(block)
            md5.update(block)
            if sha256:
                sha.update(block)
        promised = _md5_of(response.headers.get("ETag", ""), response.headers)
    finally:
        response.close()
        response.release_conn()
    if promised not in ("", md5.hexdigest()):
        raise _Damaged(f"arrives with MD5 {md5.hexdigest()} where the store has {promised}")
    if sha256 and sha256 != sha.hexdigest():
        raise _Damaged(f"has SHA-256 {sha.hexdigest()} where {_MANIFEST} has {sha256}")


def _only(version: str) -> dict[str, str | list[str] | tuple[str]]:
    """Request headers that have the store refuse another version of the object."""
    return {"If-Match": f'"{version}"'} if version else {}


def _md5_of(etag: str, headers: Mapping[str, str]) -> str:
    """The MD5 that an ETag is; empty where the object was sent in parts or is encrypted, which changes the ETag."""
    plain = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
    plain = plain and "x-amz-server-side-encryption-customer-algorithm" not in headers
    return etag.strip('"') if plain and re.fullmatch('"?[0-9a-f]{32}"?', etag) else ""


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
            with _one_line(uri), open(partial, "wb") as file:
                _retried(uri, lambda: _copy(uri, file, version, sha256))
        else:
            _copy_local(local_path(uri), partial)
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def _copy_local(path: Path, target: Path) -> None:
    try:
        shutil.copyfile(path, target)
    except OSError as error:
        named = Path(error.filename or target)
        raise KubefaceError(f"{named} cannot be {'read' if named == path else 'written'}: {error.strerror}") from error


def upload(path: Path, uri: str, content_type: str = "application/octet-stream") -> None:
    """Copies a local file to an s3:// URI, a file:// URI or a path, and holds what the store got to its checksum.

    Raises:
        KubefaceError: the file cannot be read, it arrives damaged, or the store refuses it or does not answer.
    """
    if is_s3(uri):
        with _one_line(uri):
            expected = _etag_of(path)
        _retried(uri, lambda: _send(path, uri, content_type, expected))
        return
    target = local_path(uri)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KubefaceError(f"{target} cannot be written: {error.strerror}") from error
    # A name of its own: two that write the same file at the same moment must not share what is half written.
    partial = target.with_name(f".{uuid4().hex}.partial")
    try:
        _copy_local(path, partial)
        _rename(partial, target)
    finally:
        with suppress(OSError):
            partial.unlink()


def _rename(partial: Path, target: Path) -> None:
    try:
        partial.replace(target)
    except OSError as error:
        raise KubefaceError(f"{target} cannot be written: {error.strerror}") from error


def _send(path: Path, uri: str, content_type: str, expected: str) -> None:
    bucket, key = split_s3(uri)
    sent = client().fput_object(
        bucket, key, str(path), content_type=content_type, part_size=PART_BYTES, num_parallel_uploads=1
    )
    etag, _, parts = (sent.etag or "").strip('"').partition("-")
    got = _md5_of(etag, sent.http_headers or {})
    wanted, _, wanted_parts = expected.partition("-")
    if got not in ("", wanted) and parts == wanted_parts:
        raise _Damaged(f"is stored with ETag {sent.etag} where {expected} was sent")


def _etag_of(path: Path) -> str:
    """The ETag that S3 gives to a file: its MD5, or that of its parts' MD5s and how many they are."""
    with open(path, "rb") as file:
        sums = [hashlib.md5(part, usedforsecurity=False) for part in iter(lambda: file.read(PART_BYTES), b"")]
    if len(sums) == 1:
        return sums[0].hexdigest()
    whole = hashlib.md5(b"".join(part.digest() for part in sums), usedforsecurity=False).hexdigest()
    return f"{whole}-{len(sums)}" if sums else whole


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
    shards = _shards(uri) if any(file.name == _MANIFEST for file in files) else {}
    with new_folder(path) as folder:

        def fetch(file: StoredFile) -> None:
            source, target = join(uri, file.name), folder / _inside(uri, file.name)
            with _one_line(source):
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
    last = [file for file in files if file.name == _MANIFEST]

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


def _inside(uri: str, name: str) -> PurePosixPath:
    """An object's name as a path below a folder."""
    path = PurePosixPath(name)
    require(
        path.as_posix() == name and not path.is_absolute() and ".." not in path.parts,
        f"{join(uri, name)} cannot become a file below a folder: rename the object",
    )
    return path


def _shards(uri: str) -> dict[str, str]:
    """SHA-256 by name of what a table's manifest lists; nothing where the manifest is another one."""
    try:
        return {shard["name"]: shard["sha256"] for shard in json.loads(read_bytes(join(uri, _MANIFEST)))["shards"]}
    except (ValueError, KeyError, TypeError):
        return {}


def stat(uri: str) -> StoredFile:
    """Name, size and version of one object of an S3 store.

    Raises:
        KubefaceError: it is not there, or the store refuses or does not answer.
    """
    bucket, key = split_s3(uri)
    found = _retried(uri, lambda: client().stat_object(bucket, key))
    return StoredFile(key, found.size or 0, (found.etag or "").strip('"'))


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
    bucket, key = split_s3(uri)

    def read() -> bytes:
        response = client().get_object(bucket, key, offset, length, request_headers=_only(version))
        try:
            data: bytes = response.read(decode_content=False)
        finally:
            response.close()
            response.release_conn()
        if len(data) != length:
            raise _Damaged(f"gives {len(data)} bytes where {length} were asked for")
        return data

    return _retried(uri, read)


def ensure_bucket(bucket: str) -> None:
    """Makes the bucket unless it is there."""

    def ensure() -> None:
        if not client().bucket_exists(bucket):
            client().make_bucket(bucket)

    _retried(f"s3://{bucket}", ensure)
