"""Where images come from: a folder, an S3 prefix, a tar or a zip, all as names with a way to read each."""

import lzma
import tarfile
import tempfile
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.packed_lists import FileList, StoredFile, plain_name
from kubeface.storage import objects
from kubeface.storage.datasets import published
from kubeface.storage.downloads import fetch, split_checksum

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


@dataclass(frozen=True)
class Source:
    """The files below a source, sorted by name, with sizes and version marks; `read` gives the bytes of one.

    `read` may be called from several threads.
    """

    files: FileList
    read: Callable[[str], bytes]


@contextmanager
def open_source(uri: str) -> Iterator[Source]:
    """Opens a folder, an s3:// prefix, or a .tar, .tgz or .zip given as path, s3:// or https:// address; or `lfw`.

    Archive members are read one by one and never unpacked under their own names, so that `../`,
    absolute names, links and devices do nothing.

    Raises:
        KubefaceError: the source is not there, cannot be reached, or is no archive in spite of its name.
    """
    if not (split_checksum(uri)[0].lower().endswith(ARCHIVES) or published(uri)):
        yield Source(objects.list_files(uri), lambda name: objects.read_bytes(objects.join(uri, name)))
        return
    path = fetch(uri)
    lock = Lock()  # an archive is one file with one position
    with ExitStack() as stack:
        with _readable(uri):
            files, read_member = _open_zip(path, stack) if path.suffix.lower() == ".zip" else _open_tar(path, stack)

        def read(name: str) -> bytes:
            with lock, _readable(uri):
                return read_member(name)

        yield Source(files, read)


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        raise KubefaceError(f"{uri} is not a readable archive: {reason}") from error


Opened = tuple[FileList, Callable[[str], bytes]]


def _open_zip(path: Path, stack: ExitStack) -> Opened:
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = {plain_name(info.filename): info for info in archive.infolist() if not info.is_dir()}
    files = FileList.of(StoredFile(name, info.file_size, f"{info.CRC:08x}") for name, info in members.items())
    return files, lambda name: archive.read(members[name])


def _open_tar(path: Path, stack: ExitStack) -> Opened:
    tar = stack.enter_context(tarfile.open(path))
    if path.suffix.lower() != ".tar":
        # Every step back in a compressed tar starts from its beginning: expand it once.
        expanded = stack.enter_context(tempfile.TemporaryFile())
        with tarfile.open(fileobj=expanded, mode="w") as copy:
            for member in tar:
                if member.isfile():
                    plain = tarfile.TarInfo(member.name)  # without what describes a sparse member
                    plain.size, plain.mtime = member.size, member.mtime
                    copy.addfile(plain, tar.extractfile(member))
        _check_end(tar)
        expanded.seek(0)
        tar = stack.enter_context(tarfile.open(fileobj=expanded))
    sparse: dict[str, tarfile.TarInfo] = {}
    starts = array("q")  # where the data of each member begin
    files, places = FileList.ordered(
        StoredFile(plain_name(member.name), member.size, str(member.mtime)) for member in _members(tar, sparse, starts)
    )
    offsets = np.asarray(starts)[places]
    _check_end(tar)
    file = tar.fileobj
    assert file is not None  # noqa: S101 - open for reading

    def read(name: str) -> bytes:
        if name in sparse:
            whole = tar.extractfile(sparse[name])
            return whole.read() if whole else b""
        place = files.place(name)
        size = files[place].size
        file.seek(int(offsets[place]))
        data = file.read(size)
        if len(data) != size:
            raise tarfile.ReadError(f"it ends in the middle of {name}")
        return data

    return files, read


def _members(
    tar: tarfile.TarFile, sparse: dict[str, tarfile.TarInfo], starts: "array[int]"
) -> Iterator[tarfile.TarInfo]:
    """The files in a tar, which does not remember them (a thousand bytes each) but for those with holes."""
    while (member := tar.next()) is not None:
        if member.isfile():
            if member.issparse():
                sparse[plain_name(member.name)] = member
            starts.append(member.offset_data)
            yield member
        tar.members.clear()  # type: ignore[attr-defined]  # typeshed does not know it


def _check_end(tar: tarfile.TarFile) -> None:
    """Looks whether the archive ends here: tarfile takes a damaged header for its end, and a cut for it too."""
    file = tar.fileobj
    assert file is not None  # noqa: S101 - open for reading
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"it is cut off or damaged at byte {tar.offset}")
    while file.read(2**20):
        pass  # the checksum of a compressed archive stands at its end
