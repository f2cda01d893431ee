"""Objects by URI: s3://bucket/key through the S3 API (SeaweedFS, MinIO, AWS), file:// and plain paths.

The store is named by the environment: S3_ENDPOINT (http://host:port; AWS where it is not set),
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION and S3_CA_BUNDLE.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import urllib3
from minio import Minio
from minio.credentials.providers import EnvAWSProvider, IamAwsProvider
from minio.error import S3Error

from components.faces.errors import KubefaceError

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 5, 60, 4
_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"}


@dataclass(frozen=True)
class StoredFile:
    """A file below a source: its name relative to the source, its size in bytes and a version mark."""

    name: str
    size: int
    version: str


def is_s3(uri: str) -> bool:
    """Whether the URI names something in an S3 store."""
    return uri.startswith("s3://")


def local_path(uri: str) -> Path:
    """The path that a file:// URI or a plain path names."""
    return Path(unquote(urlsplit(uri).path)) if uri.startswith("file://") else Path(uri)


def split_s3(uri: str) -> tuple[str, str]:
    """Bucket and key of an s3:// URI.

    Raises:
        KubefaceError: there is no bucket in it.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise KubefaceError(f"'{uri}' names no bucket: write s3://bucket/prefix")
    return bucket, key


def endpoint() -> str:
    """The S3 endpoint in force, as a URL."""
    return os.environ.get("S3_ENDPOINT") or "https://s3.amazonaws.com"


@cache
def _client(url: str, region: str | None, authority: str | None, key_id: str | None) -> Minio:
    """One client for each endpoint and key; `key_id` is there to tell them apart."""
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
            retries=urllib3.Retry(total=ATTEMPTS, backoff_factor=0.3, status_forcelist=[500, 502, 503, 504]),
            ca_certs=authority,
        ),
    )


def client() -> Minio:
    """The S3 client that the environment describes."""
    env = os.environ.get
    authority = env("S3_CA_BUNDLE") or env("SSL_CERT_FILE")
    return _client(endpoint(), env("AWS_REGION"), authority, env("AWS_ACCESS_KEY_ID") or env("AWS_ACCESS_KEY"))


@contextmanager
def _one_line(uri: str) -> Iterator[None]:
    """Turns what the S3 client raises into one line that says what to do."""
    bucket, key = split_s3(uri)
    try:
        yield
    except S3Error as error:
        if error.code in _REFUSED:
            raise KubefaceError(
                f"the S3 store at {endpoint()} refuses the access key for {uri} ({error.code}): "
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        if error.code == "NoSuchBucket":
            raise KubefaceError(
                f"bucket '{bucket}' does not exist at {endpoint()}: create it or correct {uri}"
            ) from error
        if error.code in ("NoSuchKey", "NoSuchObject", "ResourceNotFound"):
            raise KubefaceError(f"{uri} does not exist at {endpoint()}: check the key '{key}'") from error
        raise KubefaceError(f"the S3 store at {endpoint()} answers {error.code} for {uri}: {error.message}") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise KubefaceError(
            f"no S3 store answers at {endpoint()} for {uri} ({type(error).__name__}): check S3_ENDPOINT and the network"
        ) from error
    except ValueError as error:  # bucket and key names that the client refuses
        raise KubefaceError(f"{uri} cannot be used: {error}") from error


def list_files(uri: str) -> list[StoredFile]:
    """Every file below a folder or an s3:// prefix, sorted by name; links are not followed out of a folder.

    Raises:
        KubefaceError: the folder, the bucket or the store is not there, or the key is refused.
    """
    if not is_s3(uri):
        root = local_path(uri)
        if not root.is_dir():
            raise KubefaceError(f"{root} is not a folder: give a folder, an archive or an s3:// prefix")
        inside = root.resolve()
        found = []
        for folder, _, names in os.walk(root):
            for path in (Path(folder, name) for name in names):
                if path.resolve().is_relative_to(inside) and path.is_file():
                    stat = path.stat()
                    found.append(StoredFile(path.relative_to(root).as_posix(), stat.st_size, str(stat.st_mtime_ns)))
        return sorted(found, key=lambda file: file.name)
    bucket, key = split_s3(uri)
    prefix = key if not key or key.endswith("/") else key + "/"
    with _one_line(uri):
        objects = [
            StoredFile((item.object_name or "").removeprefix(prefix), item.size or 0, (item.etag or "").strip('"'))
            for item in client().list_objects(bucket, prefix=prefix, recursive=True)
            if not item.is_dir
        ]
    return sorted(objects, key=lambda file: file.name)


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
    bucket, key = split_s3(uri)
    with _one_line(uri):
        response = client().get_object(bucket, key)
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()


def download(uri: str, path: Path) -> None:
    """Copies one file or object to a local path; the path appears only when it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    if is_s3(uri):
        bucket, key = split_s3(uri)
        with _one_line(uri):
            client().fget_object(bucket, key, str(partial), tmp_file_path=f"{partial}.s3")
    else:
        partial.write_bytes(read_bytes(uri))
    partial.replace(path)


def upload(path: Path, uri: str, content_type: str = "application/octet-stream") -> None:
    """Copies a local file to an s3:// URI, a file:// URI or a path."""
    if is_s3(uri):
        bucket, key = split_s3(uri)
        with _one_line(uri):
            client().fput_object(bucket, key, str(path), content_type=content_type)
        return
    target = local_path(uri)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(path.read_bytes())
        partial.replace(target)
    except OSError as error:
        raise KubefaceError(f"{target} cannot be written: {error.strerror}") from error


def ensure_bucket(bucket: str) -> None:
    """Makes the bucket unless it is there."""
    with _one_line(f"s3://{bucket}"):
        if not client().bucket_exists(bucket):
            client().make_bucket(bucket)
