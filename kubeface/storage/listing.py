"""What a folder, a prefix or a bucket holds."""

import os
from collections.abc import Iterator
from pathlib import Path

from minio.error import S3Error

from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.packed_lists import FileList, StoredFile
from kubeface.storage.addresses import is_s3, local_path, split_s3
from kubeface.storage.s3 import NOT_FOUND_CODES, client, with_retries


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
    bucket, key = split_s3(uri)

    def found() -> bool:
        try:
            client().stat_object(bucket, key)
        except S3Error as error:
            if error.code in NOT_FOUND_CODES:
                return False
            raise
        return True

    return with_retries(uri, found)


def stat(uri: str) -> StoredFile:
    """Name, size and version of one object of an S3 store.

    Raises:
        KubefaceError: it is not there, or the store refuses or does not answer.
    """
    bucket, key = split_s3(uri)
    found = with_retries(uri, lambda: client().stat_object(bucket, key))
    return StoredFile(key, found.size or 0, (found.etag or "").strip('"'))


def ensure_bucket(bucket: str) -> None:
    """Makes the bucket unless it is there."""

    def ensure() -> None:
        if not client().bucket_exists(bucket):
            client().make_bucket(bucket)

    with_retries(f"s3://{bucket}", ensure)
