"""Objects of an S3 store as files to seek in, of which only what is asked for is transferred."""

import io
from dataclasses import dataclass
from typing import Any

from kubeface.storage import objects


@dataclass(frozen=True)
class RemoteFile:
    """One version of an object of an S3 store: its URI, its size in bytes and its ETag."""

    uri: str
    size: int
    version: str

    def __str__(self) -> str:
        return self.uri


class RangedFile(io.RawIOBase):
    """A RemoteFile as a file, for one thread at a time, without a buffer: every read is one request.

    Reading fails once the object was replaced in the store.
    """

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
