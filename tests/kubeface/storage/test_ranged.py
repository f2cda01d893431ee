"""Tables and files in a store, of which only what is needed is read."""

import os
import pickle
from pathlib import Path

import pytest

from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from kubeface.storage.ranged import RangedFile, RemoteFile
from kubeface.tables.table import Table, TableWriter, open_shard
from tests.support.faulty_store import BUCKET, Fault, Proxy, closed, flipped, halved, status
from tests.support.json_files import edit
from tests.support.tables import rows_of


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A face table of 300 rows in three row groups, one shard."""
    with TableWriter(tmp_path / "faces", "faces", "test 1", {}) as writer:
        for number in range(300):
            names = {"image_id": f"{number:016x}", "identity": f"person {number % 7}", "source": f"{number}.png"}
            writer.add(names | {"image": os.urandom(9000), "width": 9, "height": 9, "content": "0", "phash": "0"})
        writer.reject("a, b.jpg", "empty_file")
    return tmp_path / "faces"


@pytest.fixture
def stored(written: Path, proxy: Proxy) -> str:
    """The table in the store."""
    objects.upload_folder(written, f"s3://{BUCKET}/faces")
    proxy.requests.clear()
    proxy.bytes = 0
    return f"s3://{BUCKET}/faces"


def test_a_table_in_a_store_is_the_table_on_the_disk(stored: str, written: Path) -> None:
    here, there = Table(written, "faces"), Table(stored, "faces")
    assert list(there.row_groups()) == list(here.row_groups())
    assert there.columns(["width", "identity"]) == here.columns(["width", "identity"])
    assert there.columns(["width", "identity"]).column_names == ["width", "identity"]
    assert (there.sha256, there.rejected(), there.rows, there.identities, there.manifest) == (
        here.sha256, here.rejected(), 300, 7, here.manifest,
    )  # fmt: skip
    with pytest.raises(KubefaceError, match="s3://kubeface/faces holds a 'faces' table where 'split' is needed"):
        Table(stored, "split")


def test_only_what_is_read_is_transferred(stored: str, proxy: Proxy) -> None:
    table = Table(stored, "faces")
    with open_shard(table.paths[0]) as file:
        assert file.num_row_groups == 3
        opening, proxy.requests[:] = len(proxy.requests), []
        proxy.bytes = 0
        assert len(file.read_row_group(1)) == 128
    assert opening <= 4
    assert len(proxy.requests) == 1
    assert 128 * 9000 < proxy.bytes < 128 * 10_000


@pytest.mark.parametrize("fault", [halved, closed, status(503)])
def test_a_broken_range_is_read_again(fault: Fault, stored: str, written: Path, proxy: Proxy) -> None:
    table = Table(stored, "faces")
    rows = []
    for group in table.row_groups():
        proxy.faults = [fault]
        rows += group
    assert rows == rows_of(written)
    assert proxy.faults == [fault]  # the last one met no request


def test_a_damaged_range_is_found_by_the_checksum_of_its_page(stored: str, proxy: Proxy) -> None:
    table = Table(stored, "faces")
    with (
        pytest.raises(KubefaceError, match=r"shard-00000\.parquet cannot be read \(.*CRC"),
        open_shard(table.paths[0]) as file,
    ):
        proxy.faults = [flipped]
        file.read_row_group(1)


def test_a_shard_that_is_replaced_while_it_is_read_is_named(stored: str, written: Path) -> None:
    table = Table(stored, "faces")
    groups = table.row_groups()
    next(groups)
    objects.upload(written / "manifest.json", objects.join(stored, "shard-00000.parquet"))
    with pytest.raises(KubefaceError, match=r"shard-00000\.parquet was replaced while it was read"):
        list(groups)


def test_missing_parts_of_a_table_in_a_store_are_named(stored: str, written: Path, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"s3://kubeface/none/manifest\.json does not exist"):
        Table(f"s3://{BUCKET}/none", "faces")
    objects.upload(written / "manifest.json", f"s3://{BUCKET}/half/manifest.json")
    with pytest.raises(KubefaceError, match=r"half/shard-00000\.parquet is missing though the manifest lists it"):
        Table(f"s3://{BUCKET}/half", "faces")
    (tmp_path / "text").write_text("{")
    objects.upload(tmp_path / "text", f"s3://{BUCKET}/half/manifest.json")
    with pytest.raises(KubefaceError, match=r"half/manifest\.json is not valid JSON"):
        Table(f"s3://{BUCKET}/half", "faces")


def test_a_shard_that_differs_from_the_manifest_is_refused(stored: str, written: Path, tmp_path: Path) -> None:
    """The store's own checksum is right, as it is for whatever was uploaded."""
    edit(written / "manifest.json", lambda manifest: manifest["shards"][0].update(sha256="0" * 64))
    objects.upload_folder(written, stored)
    with pytest.raises(KubefaceError, match=r"shard-00000\.parquet has SHA-256 .* where manifest\.json has 0{64}"):
        objects.download_folder(stored, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def remote_file(uri: str) -> RemoteFile:
    folder, _, name = uri.rpartition("/")
    (listed,) = (file for file in objects.list_files(folder) if file.name == name)
    return RemoteFile(uri, listed.size, listed.version)


def test_a_remote_file_is_a_file(face: str, tmp_path: Path) -> None:
    data = (tmp_path / "face.bin").read_bytes()
    file = RangedFile(remote_file(face))
    assert file.read(10) == data[:10]
    assert file.seek(-5, os.SEEK_END) == 299_995
    assert (file.read(), file.read()) == (data[-5:], b"")
    file.seek(100)
    file.seek(50, os.SEEK_CUR)
    assert (file.tell(), file.read(7)) == (150, data[150:157])
    with pytest.raises(OSError):
        file.seek(-1)
    with pytest.raises(KubefaceError, match="nothing does not exist"):
        RangedFile(RemoteFile(f"s3://{BUCKET}/nothing", 1, "0" * 32)).read(1)


def test_a_remote_file_goes_to_other_processes(face: str, tmp_path: Path) -> None:
    file = pickle.loads(pickle.dumps(remote_file(face)))  # noqa: S301 - our own
    assert str(file) == face
    data = (tmp_path / "face.bin").read_bytes()
    objects.read_bytes(face)  # connections are open when the children are forked
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            opened = RangedFile(file)
            same = all(
                opened.seek(place) == place and opened.read(999) == data[place : place + 999]
                for place in range(number, 290_000, 7919)
            )
            os._exit(0 if same else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]
