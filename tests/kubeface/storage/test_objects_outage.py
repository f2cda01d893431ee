"""S3 storage when things go wrong: a store that dies and comes back, one that does not, bodies cut off or damaged."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kubeface.runtime.errors import KubefaceError, exit_on_error
from kubeface.storage import objects, s3
from tests.support.faulty_store import BUCKET, Fault, Proxy, Store, closed, flipped, folder_of, halved, status, sums

# --- a store that dies ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_transfers_survive_twenty_seconds_without_the_store(store: Store, tmp_path: Path) -> None:
    """Killed with SIGKILL in the middle of 200 objects on their way down and 200 on their way up."""
    down, up = folder_of(tmp_path / "down", 200, 100_000), folder_of(tmp_path / "up", 200, 100_000)
    objects.upload_folder(down, f"s3://{BUCKET}/outage/down")
    with ThreadPoolExecutor(2) as pool:
        transfers = [
            pool.submit(objects.upload_folder, up, f"s3://{BUCKET}/outage/up"),
            pool.submit(objects.download_folder, f"s3://{BUCKET}/outage/down", tmp_path / "copy"),
        ]
        while len(list(tmp_path.glob(".copy.partial/*/*.bin"))) < 30:
            time.sleep(0.005)
        store.kill()
        killed = time.monotonic()
        assert not (tmp_path / "copy").exists()
        time.sleep(5)
        store.start()
        away = time.monotonic() - killed
        assert not any(transfer.done() for transfer in transfers)
        for transfer in transfers:
            transfer.result()
    assert 15 < away < 70  # SeaweedFS needs most of that time to start after a kill
    assert sums(tmp_path / "copy") == sums(down)
    objects.download_folder(f"s3://{BUCKET}/outage/up", tmp_path / "copy of up")
    assert sums(tmp_path / "copy of up") == sums(up)


def test_a_store_that_stays_down_is_one_line(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert 60 <= s3.RETRY_SECONDS <= 90
    monkeypatch.setattr(s3, "RETRY_SECONDS", 0.5)
    objects.upload_folder(folder_of(tmp_path / "folder", 30, 10), f"s3://{BUCKET}/away")
    proxy.faults = [lambda method, body: body] * 10  # the listing and a few objects
    proxy.always = closed
    start = time.monotonic()
    with pytest.raises(SystemExit) as raised:
        exit_on_error(objects.download_folder, uri=f"s3://{BUCKET}/away", path=tmp_path / "copy")
    assert raised.value.code == 1
    assert 0.3 < time.monotonic() - start < 10
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"no S3 store answers at {proxy.url} for s3://kubeface/away/part" in said[0]
    assert "check S3_ENDPOINT and the network" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_refused_request_is_not_repeated(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KubefaceError, match="nothing does not exist"):
        objects.read_bytes(f"s3://{BUCKET}/nothing")
    with pytest.raises(KubefaceError, match="bucket 'nowhere-at-all' does not exist"):
        objects.list_files("s3://nowhere-at-all/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(KubefaceError, match="refuses the access key"):
        objects.list_files(f"s3://{BUCKET}/x")
    proxy.faults = [status(403)]  # from something that is no S3 store
    with pytest.raises(KubefaceError, match="answers HTTP 403 for s3://kubeface/x, not as an S3 store does"):
        objects.list_files(f"s3://{BUCKET}/x")
    assert len(proxy.requests) == 4


# --- answers that are spoilt ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [halved, flipped, closed, status(503), status(500)])
def test_a_damaged_response_is_requested_again(fault: Fault, face: str, proxy: Proxy, tmp_path: Path) -> None:
    expected = (tmp_path / "face.bin").read_bytes()
    proxy.faults = [fault, fault]
    assert objects.read_bytes(face) == expected
    proxy.faults = [fault, fault]
    objects.download(face, tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == expected
    assert len(proxy.requests) == 6


@pytest.mark.parametrize("fault", [halved, closed, status(503), status(500)])
def test_a_damaged_listing_is_requested_again(fault: Fault, face: str, proxy: Proxy) -> None:
    proxy.faults = [fault, fault]
    assert [file.name for file in objects.list_files(f"s3://{BUCKET}/spoilt")] == ["face.bin"]
    assert len(proxy.requests) == 3


@pytest.mark.parametrize("fault", [closed, status(503), status(500), None])
def test_an_upload_without_a_valid_response_or_damaged_is_repeated(
    fault: Fault | None, proxy: Proxy, tmp_path: Path
) -> None:
    (tmp_path / "face.bin").write_bytes(os.urandom(1000))
    if fault:
        proxy.faults = [fault, fault]
    else:
        proxy.spoil_request = [True, True]
    objects.upload(tmp_path / "face.bin", f"s3://{BUCKET}/again/face.bin")
    assert objects.read_bytes(f"s3://{BUCKET}/again/face.bin") == (tmp_path / "face.bin").read_bytes()
    assert len(proxy.requests) == 4


def test_an_object_that_stays_damaged_is_named(face: str, proxy: Proxy, tmp_path: Path) -> None:
    proxy.always = lambda method, body: flipped(method, body) if len(body) == 300_000 else body
    for action in (
        lambda: objects.read_bytes(face),
        lambda: objects.download(face, tmp_path / "copy"),
        lambda: objects.download_folder(f"s3://{BUCKET}/spoilt", tmp_path / "copy"),
    ):
        with pytest.raises(KubefaceError, match=f"{face} arrives with MD5 .* where the store has .*, 4 times in a row"):
            action()
    assert [path.name for path in tmp_path.iterdir()] == ["face.bin"]
    assert len(proxy.requests) == 3 * s3.DAMAGED_ATTEMPTS + 1


def test_an_upload_stored_with_another_checksum_is_refused(face: str, proxy: Proxy, tmp_path: Path) -> None:
    proxy.etag = f'"{"0" * 32}"'
    with pytest.raises(KubefaceError, match=f"{face} is stored with ETag 0+ where .* was sent, 4 times in a row"):
        objects.upload(tmp_path / "face.bin", face)


@pytest.mark.parametrize("etag", ['"abc"', f'"{"0" * 32}-2"'])
def test_an_etag_that_is_no_checksum_is_ignored(etag: str, face: str, proxy: Proxy, tmp_path: Path) -> None:
    proxy.etag = etag
    objects.upload(tmp_path / "face.bin", face)
    assert objects.read_bytes(face) == (tmp_path / "face.bin").read_bytes()


def test_the_etag_of_an_encrypted_object_is_no_checksum() -> None:
    etag = f'"{"0" * 32}"'
    assert s3.md5_of_etag(etag, {}) == "0" * 32
    assert s3.md5_of_etag(etag, {"x-amz-server-side-encryption": "AES256"}) == "0" * 32
    assert s3.md5_of_etag(etag, {"x-amz-server-side-encryption": "aws:kms"}) == ""
    assert s3.md5_of_etag(etag, {"x-amz-server-side-encryption-customer-algorithm": "AES256"}) == ""


def test_an_object_that_is_replaced_between_listing_and_reading_is_named(
    face: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = objects.list_files(f"s3://{BUCKET}/spoilt")
    (tmp_path / "face.bin").write_bytes(b"another")
    objects.upload(tmp_path / "face.bin", face)
    monkeypatch.setattr(objects, "list_files", lambda uri: before)
    with pytest.raises(KubefaceError, match=f"{face} was replaced while it was read: start again"):
        objects.download_folder(f"s3://{BUCKET}/spoilt", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
