"""Files and objects by address: s3://bucket/key through the S3 API (SeaweedFS, MinIO, AWS), file:// and plain paths.

minio://bucket/key, as Kubeflow Pipelines writes it, is the same as s3://bucket/key.
"""

from kubeface.storage.addresses import is_s3, join, local_path, split_s3
from kubeface.storage.contents import read_bytes, read_range, read_with_etag, replace, supports_conditional_writes
from kubeface.storage.listing import ensure_bucket, exists, list_files, stat
from kubeface.storage.s3 import client, endpoint
from kubeface.storage.transfers import download, download_folder, upload, upload_folder

__all__ = [
    "client",
    "download",
    "download_folder",
    "endpoint",
    "ensure_bucket",
    "exists",
    "is_s3",
    "join",
    "list_files",
    "local_path",
    "read_bytes",
    "read_range",
    "read_with_etag",
    "replace",
    "split_s3",
    "stat",
    "supports_conditional_writes",
    "upload",
    "upload_folder",
]
