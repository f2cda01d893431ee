"""Objects of an S3 store as files to seek in, of which only what is asked for is transferred."""

import io
from dataclasses import dataclass
from typing import Any

from kubeface.storage import objects

BUFFER_BYTES = 2**20


@dataclass(frozen=True)
class RemoteFile:
    """One version of an object of an S3 store: its URI, its size in bytes and its ETag."""

    uri: str
    size: int
    version: str

    def open(self) -> io.BufferedReader:
        """The object as a file, for one thread at a time; reading fails once it was replaced in the store."""
        return io.BufferedReader(RangedFile(self), BUFFER_BYTES)

    def __str__(self) -> str:
        return self.uri


def open_ranged(uri: str) -> io.BufferedReader:
    """An object of an S3 store as a file that pyarrow reads row groups out of; for one thread at a time.

    Args:
        uri: s3:// URI of the object.

    Raises:
        KubefaceError: the object is not there, on reading was replaced, or the store does not answer.
    """
    found = objects.stat(uri)
    return RemoteFile(uri, found.size, found.version).open()


class RangedFile(io.RawIOBase):
    """A RemoteFile without a buffer: every read is one request for exactly what is asked for."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if place < 0:
            raise OSError(f"{self._file} has no byte {place}")
        self._position = place
        return place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._file.size - self._position)
        if length <= 0:
            return 0
        view[:length] = objects.read_range(self._file.uri, self._position, length, self._file.version)
        self._position += length
        return length
