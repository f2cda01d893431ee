"""The S3 client with its retries, and what its errors mean for the user.

The store is named by the environment: S3_ENDPOINT (http://host:port; AWS where it is not set),
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION and S3_CA_BUNDLE.

Requests to a store that does not answer, breaks off or is overloaded are repeated for RETRY_SECONDS; what it refuses is
an error at once. An object that arrives with another checksum than the store gives for it is fetched again a few times.
"""

import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.credentials.providers import EnvAWSProvider, IamAwsProvider
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from kubeface.runtime.errors import KubefaceError, require

CONNECT_SECONDS, READ_SECONDS = 5, 30
# A pod of the store that dies is back on another node within a minute, mostly.
RETRY_SECONDS = 75.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0
DAMAGED_ATTEMPTS = 4
NOT_FOUND_CODES = {"NoSuchKey", "NoSuchObject", "NoSuchBucket", "ResourceNotFound"}
REFUSED_KEY_CODES = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"}
TEMPORARY_STATUSES = {408, 429, 500, 502, 503, 504}
TEMPORARY_CODES = {
    "SlowDown",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "IncompleteBody",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "ConditionalRequestConflict",  # AWS: another write was under way; the condition has yet to be looked at
}

Result = TypeVar("Result")
S3_SCHEMES = ("s3://", "minio://")  # Kubeflow Pipelines writes minio://bucket/key


def is_s3(uri: str) -> bool:
    """Whether the URI names something in an S3 store."""
    return uri.startswith(S3_SCHEMES)


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
            retries=False,  # with_retries sees to it, and for broken bodies too
            ca_certs=authority,
        ),
    )


def client() -> Minio:
    """The S3 client that the environment describes."""
    env = os.environ.get
    authority = env("S3_CA_BUNDLE") or env("SSL_CERT_FILE")
    key_id = env("AWS_ACCESS_KEY_ID") or env("AWS_ACCESS_KEY")
    return _client(endpoint(), env("AWS_REGION"), authority, key_id, os.getpid())


class DamagedTransfer(Exception):
    """What arrived differs from what was sent; the message says how."""


@contextmanager
def readable_errors(uri: str) -> Iterator[None]:
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
    except DamagedTransfer as error:
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
    if error.code in REFUSED_KEY_CODES:
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


def is_temporary(error: Exception) -> bool:
    """Whether the same request may go well a little later."""
    if isinstance(error, MinioException):
        return _status(error) in TEMPORARY_STATUSES or getattr(error, "code", "") in TEMPORARY_CODES
    return not isinstance(error, urllib3.exceptions.SSLError | urllib3.exceptions.LocationValueError)


def with_retries(uri: str, action: Callable[[], Result]) -> Result:
    """Does something with an object, again and again for RETRY_SECONDS while the store is in trouble.

    The pauses double from FIRST_PAUSE_SECONDS to LONGEST_PAUSE_SECONDS, each shortened by up to a half at random so
    that many readers do not come back at the same moment.
    """
    end, pause = time.monotonic() + RETRY_SECONDS, FIRST_PAUSE_SECONDS
    with readable_errors(uri):
        for attempt in count(1):
            try:
                return action()
            except DamagedTransfer:
                if attempt >= DAMAGED_ATTEMPTS:
                    raise
            except (MinioException, urllib3.exceptions.HTTPError) as error:
                if not is_temporary(error) or time.monotonic() + pause > end:
                    raise
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    raise AssertionError("the loop above ends with a result or an error")


def md5_of_etag(etag: str, headers: Mapping[str, str]) -> str:
    """The MD5 that an ETag is; empty where the object was sent in parts or is encrypted, which changes the ETag."""
    plain = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
    plain = plain and "x-amz-server-side-encryption-customer-algorithm" not in headers
    return etag.strip('"') if plain and re.fullmatch('"?[0-9a-f]{32}"?', etag) else ""
