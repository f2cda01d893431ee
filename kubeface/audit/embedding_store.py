"""Embeddings on disk, read by row."""

import os
from tempfile import TemporaryFile
from types import TracebackType

import numpy as np

from kubeface.audit.embedder import SIZE, Vectors
from kubeface.audit.groups import Codes, Ints


class EmbeddingStore:
    """Embeddings by row in a temporary file, so that memory does not grow with their number.

    They are read with pread and not mapped, since mapped pages count as the process's memory.

    Args:
        size: numbers of an embedding.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._file = TemporaryFile()
        self._bytes = 4 * size
        self._size = size
        self._row_to_read: Codes | None = None

    def append(self, vectors: Vectors) -> None:
        """Adds rows (N×size)."""
        self._file.write(np.ascontiguousarray(vectors, np.float32).tobytes())

    def redirect(self, rows: Codes) -> None:
        """From now on row i reads as row rows[i]: a low-resolution image has its sharp partner's embedding."""
        self._row_to_read = rows

    def read(self, rows: Ints) -> Vectors:
        """The embeddings of rows, in their order (N×size)."""
        self._file.flush()
        read = rows if self._row_to_read is None else self._row_to_read[rows]
        number, width = self._file.fileno(), self._bytes
        data = b"".join(os.pread(number, width, int(row) * width) for row in read)
        return np.frombuffer(data, np.float32).reshape(-1, self._size)

    def __enter__(self) -> "EmbeddingStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
