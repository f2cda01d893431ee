"""Whole folders to a store and back."""

from pathlib import Path
from typing import Any

import pytest

from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.packed_lists import StoredFile
from kubeface.storage import objects
from tests.support.faulty_store import BUCKET, Proxy, Store, folder_of, sums


@pytest.mark.parametrize("scheme", ["s3", "minio"])
def test_a_folder_goes_there_and_back(scheme: str, store: Store, tmp_path: Path, capsys: Any) -> None:
    folder = folder_of(tmp_path / "folder", 20, 3000)
    (folder / "empty").write_bytes(b"")
    (folder / ("ü" * 127)).write_bytes(b"the longest name that there may be")
    uri = f"{scheme}://{BUCKET}/back/{scheme}"
    objects.upload_folder(folder, uri, "upload")
    objects.download_folder(uri + "/", tmp_path / "copy", "download")
    assert sums(tmp_path / "copy") == sums(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "folder"]
    said = capsys.readouterr().err
    assert "upload: 22/22 100 % files" in said and "download: 22/22 100 % files" in said


def test_folders_on_the_disk_too(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "folder", 5, 100)
    objects.upload_folder(folder, (tmp_path / "there").as_uri())
    objects.download_folder(str(tmp_path / "there"), tmp_path / "copy")
    assert sums(tmp_path / "copy") == sums(folder)


def test_a_manifest_is_written_last(proxy: Proxy, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "folder", 12, 10)
    (folder / "manifest.json").write_text("{}")
    objects.upload_folder(folder, f"s3://{BUCKET}/last")
    assert [request.rpartition("/")[2] for request in proxy.requests].index("manifest.json") == 12
    objects.download_folder(f"s3://{BUCKET}/last", tmp_path / "copy")  # a manifest of something else than a table
    assert sums(tmp_path / "copy") == sums(folder)


def test_large_files_go_in_parts(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PART_BYTES", 5 * 2**20)
    folder = folder_of(tmp_path / "folder", 1, 11 * 2**20)
    objects.upload_folder(folder, f"s3://{BUCKET}/large")
    (file,) = objects.list_files(f"s3://{BUCKET}/large")
    assert (file.size, file.version[32:]) == (11 * 2**20, "-3")
    objects.download_folder(f"s3://{BUCKET}/large", tmp_path / "copy")
    assert sums(tmp_path / "copy") == sums(folder)


def test_nothing_to_copy_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    with pytest.raises(KubefaceError, match="void holds nothing: check the folder"):
        objects.upload_folder(tmp_path / "void", f"s3://{BUCKET}/void")
    with pytest.raises(KubefaceError, match="s3://kubeface/void holds nothing: check the folder or prefix"):
        objects.download_folder(f"s3://{BUCKET}/void", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a//b", "./a"])
def test_names_that_leave_the_folder_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "list_files", lambda uri: [StoredFile(name, 1, "")])
    with pytest.raises(KubefaceError, match="cannot become a file below a folder: rename the object") as raised:
        objects.download_folder(f"s3://{BUCKET}/x", tmp_path / "copy")
    assert name in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_is_not_the_listed_one_is_named(face: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a store that knows no If-Match."""
    monkeypatch.setattr(objects, "list_files", lambda uri: [StoredFile("face.bin", 7, "")])
    with pytest.raises(KubefaceError, match=f"{face} arrives with 300000 bytes where 7 were listed"):
        objects.download_folder(f"s3://{BUCKET}/spoilt", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("uri", ["gs://bucket/faces", "gs://bucket/faces.tar"])
def test_the_scheme_of_another_store_is_refused(uri: str, tmp_path: Path) -> None:
    for action in (
        lambda: objects.list_files(uri),
        lambda: objects.read_bytes(uri),
        lambda: objects.download_folder(uri, tmp_path / "copy"),
        lambda: objects.upload(tmp_path, uri),
    ):
        with pytest.raises(KubefaceError, match=f"{uri}: gs:// is not supported, give s3://"):
            action()
