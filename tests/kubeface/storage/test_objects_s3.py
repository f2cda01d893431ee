"""S3 storage against a real store."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import ProtocolError as ConnectionLostError

from kubeface.ingest.step import ingest, plan_shards
from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects, s3
from kubeface.storage.downloads import fetch
from kubeface.storage.folders import sha256_file
from tests.support.faulty_store import BUCKET, Store


@pytest.fixture
def bucket(store: Store) -> str:
    """A bucket in a real store that the environment describes."""
    return BUCKET


def put(uri: str, data: bytes, folder: Path) -> None:
    path = folder / "object"
    path.write_bytes(data)
    objects.upload(path, uri)


def test_round_trip_listing_and_names(bucket: str, tmp_path: Path) -> None:
    names = ["a/1.bin", "a/2 with space.bin", "b/ünïcode+plus.bin", "b/c/deep.bin"]
    for name in names:
        put(f"s3://{bucket}/trip/{name}", name.encode() * 3, tmp_path)
    put(f"s3://{bucket}/trip-other/a/1.bin", b"a prefix is a folder, and not the beginning of a name", tmp_path)
    listed = objects.list_files(f"s3://{bucket}/trip")
    assert [file.name for file in listed] == sorted(names)
    assert [file.size for file in listed] == [len(name.encode()) * 3 for name in sorted(names)]
    for name in names:
        assert objects.read_bytes(f"s3://{bucket}/trip/{name}") == name.encode() * 3


@pytest.mark.slow
def test_more_objects_than_one_answer_holds(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"x")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: objects.upload(tmp_path / "object", f"s3://{bucket}/many/{n:04d}"), range(1005)))
    assert len(objects.list_files(f"s3://{bucket}/many")) == 1005


def test_fetch_from_s3_with_and_without_checksum(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEFACE_CACHE", str(tmp_path / "cache"))
    put(f"s3://{bucket}/w/weights.pt", b"one", tmp_path)
    checksum = sha256_file(tmp_path / "object")
    assert fetch(f"s3://{bucket}/w/weights.pt#sha256={checksum}").read_bytes() == b"one"
    assert fetch(f"s3://{bucket}/w/weights.pt").read_bytes() == b"one"
    put(f"s3://{bucket}/w/weights.pt", b"two", tmp_path)
    assert fetch(f"s3://{bucket}/w/weights.pt").read_bytes() == b"two"  # never trusted from before
    assert fetch(f"s3://{bucket}/w/weights.pt#sha256={checksum}").read_bytes() == b"one"  # from the cache


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://nowhere-at-all/x", "bucket 'nowhere-at-all' does not exist at http://127.0.0.1"),
        ("s3://", "names no bucket"),
        ("s3://A/x", "cannot be used: invalid bucket name"),
        ("s3://kubeface/nobody", "s3://kubeface/nobody holds no image"),
    ],
)
def test_a_wrong_address_is_one_clear_line(bucket: str, uri: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=message):
        ingest(uri, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_key_is_one_clear_line(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    for action in (
        lambda: objects.list_files(f"s3://{bucket}/x"),
        lambda: objects.read_bytes(f"s3://{bucket}/x"),
        lambda: put(f"s3://{bucket}/x", b"x", tmp_path),
        lambda: ingest(f"s3://{bucket}/x", tmp_path / "out"),
    ):
        with pytest.raises(KubefaceError, match="refuses the access key") as raised:
            action()
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(raised.value)


def test_ingest_from_s3_gives_what_ingest_from_the_folder_gives(
    bucket: str, orl_folder: Path, faces_table: Path, tmp_path: Path
) -> None:
    for path in sorted(orl_folder.rglob("*.pgm")):
        objects.upload(path, f"s3://{bucket}/people/{path.relative_to(orl_folder).as_posix()}")
    (shard,) = plan_shards(f"s3://{bucket}/people").shards
    ingest(f"s3://{bucket}/people", tmp_path / "s3", shard=shard)
    shards = [(folder / "shard-00000.parquet").read_bytes() for folder in (tmp_path / "s3", faces_table)]
    assert shards[0] == shards[1]
    put(f"s3://{bucket}/people/{'s1'}/new.pgm", b"x", tmp_path)
    assert plan_shards(f"s3://{bucket}/people").shards != [shard]
    with pytest.raises(KubefaceError, match="changed while the run began"):
        ingest(f"s3://{bucket}/people", tmp_path / "again", shard=shard)


@pytest.mark.parametrize("remote", [True, False])
def test_replacing_is_compare_and_swap(remote: bool, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/swap/x.json" if remote else str(tmp_path / "swap" / "x.json")
    assert objects.read_with_etag(uri) is None
    assert not objects.replace(uri, b"1", "0" * 32)
    assert objects.replace(uri, b"1", "")
    assert not objects.replace(uri, b"2", "")
    data, mark = objects.read_with_etag(uri) or (b"", "")
    assert data == b"1" and mark
    assert objects.replace(uri, b"2", mark)
    assert not objects.replace(uri, b"3", mark)
    assert objects.read_bytes(uri) == b"2"
    assert objects.supports_conditional_writes(uri) and objects.read_bytes(uri) == b"2"
    if not remote:
        assert {path.name for path in (tmp_path / "swap").iterdir()} == {"x.json", ".x.json.lock"}
    assert objects.read_with_etag("s3://nowhere-at-all/x") is None
    with pytest.raises(KubefaceError, match="bucket 'nowhere-at-all' does not exist"):
        objects.replace("s3://nowhere-at-all/x", b"1", "")


def test_one_of_several_concurrent_replacements_wins(bucket: str) -> None:
    uri, mark = f"s3://{bucket}/swap/race", ""
    with ThreadPoolExecutor(4) as pool:
        for number in range(10):
            contents = [f"{number} {contender}".encode() for contender in range(4)]
            won = list(pool.map(objects.replace, [uri] * 4, contents, [mark] * 4))
            assert sorted(won) == [False, False, False, True]
            found = objects.read_with_etag(uri)
            assert found is not None and found[0] == contents[won.index(True)]
            mark = found[1]


def test_a_replacement_whose_answer_is_lost_is_still_a_replacement(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = type(objects.client())._put_object
    lost: list[int] = []

    def put_and_lose(*arguments: Any, **named: Any) -> Any:
        result = put(*arguments, **named)
        if not lost:
            lost.append(1)
            raise ConnectionLostError("the answer got lost")
        return result

    monkeypatch.setattr(type(objects.client()), "_put_object", put_and_lose)
    assert objects.replace(f"s3://{bucket}/swap/lost", b"mine", "")
    assert lost and objects.read_bytes(f"s3://{bucket}/swap/lost") == b"mine"


def test_a_store_without_conditional_writes_is_detected(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put = type(objects.client())._put_object
    objects.replace(f"s3://{bucket}/swap/heedless", b"there", "")

    def put_anyway(client: Any, bucket: str, key: str, data: bytes, headers: dict[str, str]) -> Any:
        return put(client, bucket, key, data, headers={"Content-Type": headers["Content-Type"]})

    monkeypatch.setattr(type(objects.client()), "_put_object", put_anyway)
    assert not objects.supports_conditional_writes(f"s3://{bucket}/swap/heedless")
    assert objects.read_bytes(f"s3://{bucket}/swap/heedless") == b"there"


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://127.0.0.1:1", "no S3 store answers at http://127.0.0.1:1 .*check S3_ENDPOINT"),
        ("ftp://host", "S3_ENDPOINT is"),
        ("http://", "S3_ENDPOINT is"),
    ],
)
def test_a_wrong_endpoint_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, endpoint: str, message: str) -> None:
    monkeypatch.setattr(s3, "RETRY_SECONDS", 0.5)
    for name, value in (("S3_ENDPOINT", endpoint), ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(name, value)
    with pytest.raises(KubefaceError, match=message):
        objects.list_files("s3://kubeface/x")
