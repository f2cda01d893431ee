"""Addresses of files and objects: s3:// and minio:// URIs, file:// URIs and plain paths."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from kubeface.runtime.errors import require

S3_SCHEMES = ("s3://", "minio://")  # Kubeflow Pipelines writes minio://bucket/key


def is_s3(uri: str) -> bool:
    """Whether the URI names something in an S3 store."""
    return uri.startswith(S3_SCHEMES)


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


def join(uri: str, name: str) -> str:
    """The URI of a file below a folder or a prefix."""
    return f"{uri.rstrip('/')}/{name}"
