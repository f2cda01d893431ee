"""Folders and archives as names with a way to read each, also when the archive is hostile or broken."""

import gzip
import io
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import sha256_file
from kubeface.storage.sources import open_source

FILES = {f"{person}/{number}.bin": f"{person}{number}".encode() * 700 for person in "ab" for number in range(4)}
TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size, member.mtime = kind, link, len(data), 1_600_000_000
    tar.addfile(member, io.BytesIO(data))


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the kind that the path's suffix says, members in reverse order."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in reversed(files.items()):
                archive.writestr(name, data)
        return path
    with tarfile.open(path, TARS["".join(path.suffixes)]) as tar:  # type: ignore[call-overload]
        for name, data in reversed(files.items()):
            add(tar, name, data)
    return path


def contents(uri: Path | str) -> dict[str, bytes]:
    with open_source(str(uri)) as source:
        files = {file.name: source.read(file.name) for file in source.files}
        assert list(files) == sorted(files)
        assert {file.name: file.size for file in source.files} == {name: len(data) for name, data in files.items()}
        return files


@pytest.mark.parametrize("suffix", [*TARS, ".zip"])
def test_archives_hold_what_the_folder_holds(suffix: str, tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    assert contents(tmp_path / "folder") == FILES
    archive = pack(tmp_path / f"archive{suffix}", FILES)
    assert contents(archive) == FILES
    assert contents(archive.as_uri()) == FILES
    assert contents(f"{archive}#sha256={sha256_file(archive)}") == FILES
    with pytest.raises(KubefaceError, match="it is not the file that was asked for"):
        contents(f"{archive}#sha256={'0' * 64}")


def test_suffixes_may_be_in_capitals(tmp_path: Path) -> None:
    pack(tmp_path / "a.zip", FILES).rename(tmp_path / "A.ZIP")
    pack(tmp_path / "a.tgz", FILES).rename(tmp_path / "A.TGZ")
    assert contents(tmp_path / "A.ZIP") == contents(tmp_path / "A.TGZ") == FILES


@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".zip"])
def test_many_threads_may_read(suffix: str, tmp_path: Path) -> None:
    files = {f"a/{number}": bytes([number]) * 20_000 for number in range(60)}
    archive = pack(tmp_path / f"archive{suffix}", files)
    with open_source(str(archive)) as source, ThreadPoolExecutor(8) as pool:
        names = list(files) * 5
        assert all(data == files[name] for name, data in zip(names, pool.map(source.read, names), strict=True))


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
def test_links_and_devices_are_no_files(suffix: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    archive = tmp_path / f"archive{suffix}"
    with tarfile.open(archive, TARS[suffix]) as tar:  # type: ignore[call-overload]
        add(tar, "a/1.bin", b"1")
        add(tar, "a/soft", kind=tarfile.SYMTYPE, link=str(secret))
        add(tar, "a/soft2", kind=tarfile.SYMTYPE, link="../../secret")
        add(tar, "a/hard", kind=tarfile.LNKTYPE, link=str(secret))
        add(tar, "a/null", kind=tarfile.CHRTYPE)
        add(tar, "a/pipe", kind=tarfile.FIFOTYPE)
        add(tar, "a/folder", kind=tarfile.DIRTYPE)
        add(tar, "a/soft2/3.bin", b"3")
    assert contents(archive) == {"a/1.bin": b"1", "a/soft2/3.bin": b"3"}
    assert secret.read_text() == "secret"


@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".zip"])
def test_names_that_point_elsewhere_are_labels_only(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "1.bin").write_bytes(b"mine")
    hostile = {"../1.bin": b"up", "a/../../1.bin": b"up", f"{tmp_path}/1.bin": b"absolute", "./b/2.bin": b"here"}
    archive = pack(tmp_path / f"archive{suffix}", hostile)
    before = sorted(tmp_path.parent.rglob("*"))
    found = contents(archive)
    assert sorted(found.values()) == [b"absolute", b"here", b"up", b"up"]
    assert found["b/2.bin"] == b"here"
    assert (tmp_path / "1.bin").read_bytes() == b"mine"
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("suffix", [*TARS, ".zip"])
@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04", b"\x1f\x8b\x08\x00", bytes(100)])
def test_an_invalid_archive_is_named_in_one_line(suffix: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"faces{suffix}"
    path.write_bytes(data)
    with pytest.raises(KubefaceError, match=rf"^{path} is not a readable archive: .*[^:]$"):
        contents(path)


@pytest.mark.parametrize("suffix", [*TARS, ".zip"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.6])
def test_an_archive_cut_off_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    archive = pack(tmp_path / f"faces{suffix}", FILES)
    data = archive.read_bytes()
    archive.write_bytes(data[: int(share * len(data))])
    with pytest.raises(KubefaceError, match="is not a readable archive"):
        contents(archive)


@pytest.mark.parametrize("damage", ["cut off", "header"])
@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
def test_a_tar_that_ends_early_is_refused(suffix: str, damage: str, tmp_path: Path) -> None:
    """Cut between two members, or a bad header: tarfile takes both for the end."""
    plain = pack(tmp_path / "faces.tar", FILES)
    with tarfile.open(plain) as tar:
        place = tar.getmembers()[3].offset
    data = bytearray(plain.read_bytes())
    if damage == "cut off":
        del data[place:]
    else:
        data[place + 5] ^= 0x55
    archive = tmp_path / f"faces{suffix}"
    archive.write_bytes(gzip.compress(data) if suffix == ".tgz" else data)
    with pytest.raises(KubefaceError, match=f"it is cut off or damaged at byte {place}"):
        contents(archive)


def test_the_checksum_of_a_compressed_tar_is_verified(tmp_path: Path) -> None:
    archive = pack(tmp_path / "faces.tgz", FILES)
    data = bytearray(archive.read_bytes())
    data[-6] ^= 1
    archive.write_bytes(data)
    with pytest.raises(KubefaceError, match="CRC check failed"):
        contents(archive)


@pytest.mark.parametrize("suffix", [*TARS, ".zip"])
def test_damage_is_never_read_as_something_else(suffix: str, tmp_path: Path) -> None:
    """A plain tar has checksums of its headers only: those are what is damaged there."""
    archive = pack(tmp_path / f"faces{suffix}", FILES)
    whole = archive.read_bytes()
    places = range(20, len(whole) - 20, max(1, len(whole) // 40))
    if suffix == ".tar":
        with tarfile.open(archive) as tar:
            places = [member.offset + 130 for member in tar.getmembers()]  # type: ignore[assignment]
    refused = 0
    for place in places:
        data = bytearray(whole)
        data[place] ^= 0x55
        archive.write_bytes(data)
        try:
            assert contents(archive).keys() <= FILES.keys()
        except KubefaceError as error:
            assert "is not a readable archive" in str(error)
            refused += 1
    assert refused >= 0.5 * len(places)
    if suffix == ".tar":
        assert refused == len(places)


@pytest.mark.parametrize("name", ["gone.tar", "gone.zip", "gone"])
def test_a_missing_source_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=name):
        contents(tmp_path / name)


@pytest.mark.slow
def test_the_shared_data_sets_open(shared_data: Path) -> None:
    with open_source(str(shared_data / "celeba" / "celeba_wild.tar")) as source:
        assert len(source.files) == 4208
        assert source.read(source.files[0].name)[:2] == b"\xff\xd8"
    with open_source(str(shared_data / "lfw" / "lfw-deepfunneled.tar")) as source:
        assert sum(file.name.endswith(".jpg") for file in source.files) == 13_233
