"""Storage on plain paths and file:// URIs; S3 is tested against a real store elsewhere."""

import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from tests.support.faulty_store import BUCKET, Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "a folder"
    for name, text in {"b/2.txt": "22", "a/1.txt": "1", "top.txt": "", "a.b/3.txt": "333"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def names(uri: str) -> list[str]:
    return [file.name for file in objects.list_files(uri)]


def test_listing_is_relative_sorted_and_measured(folder: Path) -> None:
    files = objects.list_files(str(folder))
    assert [(file.name, file.size) for file in files] == [
        ("a.b/3.txt", 3),
        ("a/1.txt", 1),
        ("b/2.txt", 2),
        ("top.txt", 0),
    ]
    assert names(f"{folder}/") == names(folder.as_uri()) == [file.name for file in files]
    assert "%20" in folder.as_uri()


def test_version_changes_when_a_file_is_replaced_by_one_of_the_same_size(folder: Path) -> None:
    before = {file.name: file.version for file in objects.list_files(str(folder))}
    (folder / "a" / "1.txt").write_text("9")
    os.utime(folder / "a" / "1.txt", ns=(1, 1))
    after = {file.name: file.version for file in objects.list_files(str(folder))}
    assert {name for name in before if before[name] != after[name]} == {"a/1.txt"}


def test_links_are_not_followed_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.txt").write_text("secret")
    before = names(str(folder))
    (folder / "a" / "out.txt").symlink_to(tmp_path / "secret" / "key.txt")
    (folder / "outside").symlink_to(tmp_path / "secret")
    (folder / "a" / "gone.txt").symlink_to(folder / "nowhere")
    assert names(str(folder)) == before
    (folder / "a" / "in.txt").symlink_to(folder / "b" / "2.txt")
    assert set(names(str(folder))) - set(before) == {"a/in.txt"}
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be one
    assert names(str(tmp_path / "link")) == names(str(folder))


@pytest.mark.parametrize("name", ["nowhere", "a folder/top.txt"])
def test_a_source_that_is_no_folder_is_named(folder: Path, name: str) -> None:
    with pytest.raises(KubefaceError, match=f"{name} is not a folder: give a folder, an archive or an s3:// prefix"):
        objects.list_files(str(folder.parent / name))


def test_reading(folder: Path) -> None:
    assert objects.read_bytes(objects.join(str(folder), "b/2.txt")) == b"22"
    assert objects.read_bytes(objects.join(folder.as_uri() + "/", "a.b/3.txt")) == b"333"
    with pytest.raises(KubefaceError, match=r"b/3\.txt cannot be read: No such file"):
        objects.read_bytes(objects.join(str(folder), "b/3.txt"))
    with pytest.raises(KubefaceError, match="Is a directory"):
        objects.read_bytes(str(folder))


def test_join_adds_one_slash() -> None:
    assert objects.join("s3://bucket/prefix/", "a/b") == objects.join("s3://bucket/prefix", "a/b")
    assert objects.join("/data", "a") == "/data/a"


@pytest.mark.parametrize("remote", [False, True])
def test_copies_are_whole_or_absent(remote: bool, folder: Path, store: Store, tmp_path: Path) -> None:
    source = f"s3://{BUCKET}/copied" if remote else (folder / "b").as_uri()
    (folder / "b" / "2.txt").write_bytes(b"z" * 100_000)
    if remote:
        objects.upload(folder / "b" / "2.txt", f"{source}/2.txt")
    objects.download(f"{source}/2.txt", tmp_path / "copy.txt")
    assert (tmp_path / "copy.txt").read_bytes() == b"z" * 100_000
    with pytest.raises(KubefaceError, match="nowhere does not exist" if remote else "nowhere cannot be read"):
        objects.download(f"{source}/nowhere", tmp_path / "other.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a folder", "copy.txt"]


def test_upload_makes_folders_and_replaces(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "x.txt"
    objects.upload(folder / "b" / "2.txt", target.as_uri())
    assert target.read_text() == "22"
    objects.upload(folder / "a.b" / "3.txt", str(target))
    assert target.read_text() == "333"
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(KubefaceError, match=r"top\.txt/x cannot be written"):
        objects.upload(folder / "b" / "2.txt", str(folder / "top.txt" / "x"))


def test_s3_names() -> None:
    assert objects.is_s3("s3://bucket/key")
    assert not objects.is_s3("/data/s3://bucket")
    assert objects.split_s3("s3://bucket/a/b.tar") == ("bucket", "a/b.tar")
    assert objects.split_s3("s3://bucket") == ("bucket", "")
    with pytest.raises(KubefaceError, match="names no bucket: write s3://bucket/prefix"):
        objects.split_s3("s3:///key")


def test_replacing_where_nothing_can_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert objects.read_with_etag(str(tmp_path / "file" / "x")) is None
    with pytest.raises(KubefaceError, match="file/x cannot be written"):
        objects.replace(str(tmp_path / "file" / "x"), b"1", "")
    with pytest.raises(KubefaceError, match="cannot be read: Is a directory"):
        objects.read_with_etag(str(tmp_path))


def count_up(uri: str, times: int) -> int:
    """Adds to a number in a file until that many additions went through; returns how many others came first."""
    lost = 0
    while times:
        data, mark = objects.read_with_etag(uri) or (b"0", "")
        if objects.replace(uri, str(int(data) + 1).encode(), mark):
            times -= 1
        else:
            lost += 1
    return lost


def test_one_of_several_concurrent_processes_wins(tmp_path: Path) -> None:
    uri = str(tmp_path / "number")
    with ProcessPoolExecutor(4) as pool:
        lost = sum(pool.map(count_up, [uri] * 4, [50] * 4))
    assert objects.read_bytes(uri) == b"200"
    assert lost > 0  # they did meet


def test_several_may_write_the_same_file_at_the_same_time(tmp_path: Path) -> None:
    contents = [bytes([65 + number]) * 300_000 for number in range(4)]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    target = tmp_path / "there" / "file"
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda n: objects.upload(tmp_path / str(n % 4), str(target)), range(200)):
            assert target.read_bytes() in contents
    assert list(target.parent.iterdir()) == [target]
