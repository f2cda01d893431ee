"""Records of a run's data: what the next run reads of them, and receipts of shards."""

from pathlib import Path

import pytest

from kubeface.records.data import previous_shards
from kubeface.records.receipt import Receipt
from kubeface.runtime.errors import KubefaceError


def test_shards_of_the_run_before(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    assert previous_shards("") == previous_shards(str(path)) == {}
    path.write_text('{"shards": {"0/2": "a", "1/2": "b"}, "features": {}, "schema_version": 9}')
    assert previous_shards(str(path)) == {"0/2": "a", "1/2": "b"}
    path.write_text('{"features": {}}')
    assert previous_shards(str(path)) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"shards": 3}'])
def test_what_is_no_record_of_the_run_before_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(KubefaceError, match=r"data\.json is not the data\.json of a run"):
        previous_shards(str(path))


def test_receipt_from_text() -> None:
    receipt = Receipt(shard="1/3", fingerprint="f", uri="s3://b/x", rows_in=2, rows_out=1, seconds=0.5)
    assert Receipt.from_text(receipt.model_dump_json()) == receipt
    assert Receipt.from_text("folder/faces") == Receipt(uri="folder/faces")
    with pytest.raises(KubefaceError, match="is no receipt of a shard: uri is missing"):
        Receipt.from_text('{"shard": "1/3"}')
