"""Training images: found, shuffled, augmented and degraded alike in any process."""

import shutil
import tracemalloc
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB, decode_rgb
from kubeface.finetune.augment import KINDS, Augmentation
from kubeface.finetune.data import Batches, FaceCrops, collate, loaded
from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from kubeface.tables import table as table_module
from kubeface.tables.row_index import WINDOW, FaceLocation, RowIndex, row_index
from kubeface.tables.table import Table
from pipelines.local.store import local_store
from tests.support.faulty_store import in_force
from tests.support.tables import DETECTED, EMPTY_IMAGE, rows_of, write_rows

NOISE = Degradation.parse("noise:60")
STILL = Augmentation(flip=0)
OFTEN: dict[str, Any] = dict.fromkeys((*KINDS, "mix"), 0.5) | {"jitter": 0.3}
MUCH = Augmentation(**OFTEN)


@pytest.fixture(scope="module")
def small_groups(aligned_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Table:
    """The thirty aligned crops again, in row groups of one and in several shards."""
    out = tmp_path_factory.mktemp("small") / "aligned"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "ROW_GROUP_ROWS", 1)
        patch.setattr(table_module, "SHARD_BYTES", 100_000)
        write_rows(out, "aligned", rows_of(aligned_table))
    table = Table(out, "aligned")
    assert len(table.paths) > 2
    return table


def labelled(table: Table) -> dict[str, int]:
    """Classes of all images but those of s1, whose people stand in alphabetical order."""
    rows = table.columns(["image_id", "identity"]).to_pylist()
    names = sorted({row["identity"] for row in rows} - {"s1"})
    return {row["image_id"]: names.index(row["identity"]) for row in rows if row["identity"] in names}


def whole_index(folder: Path) -> RowIndex:
    table = Table(folder, "aligned")
    return row_index(table, labelled(table))


@pytest.fixture(scope="module")
def found(small_groups: Table) -> RowIndex:
    return row_index(small_groups, labelled(small_groups))


@pytest.fixture(scope="module")
def pixels(aligned_table: Path) -> dict[str, RGB]:
    """The crops by image id, read without any of the code under test."""
    return {row["image_id"]: decode_rgb(row["image"]) for row in rows_of(aligned_table, ["image_id", "image"])}


def read_all(found: RowIndex, workers: int) -> list[list[Tensor]]:
    """Every crop once, in batches."""
    keys = [(index, 0) for index in range(len(found))]
    return list(loaded(DataLoader(FaceCrops(found, NOISE, 0), batch_size=4, sampler=keys, num_workers=workers)))


def as_rgb(tensor: Tensor) -> RGB:
    return tensor.permute(1, 2, 0).numpy()


# --- places ---------------------------------------------------------------------------------------------------------


def test_row_index_names_the_right_rows(small_groups: Table, found: RowIndex) -> None:
    labels = labelled(small_groups)
    stored = small_groups.columns(["image_id"])["image_id"].to_pylist()
    assert [place.image_id for place in found] == [i for i in stored if i in labels]
    assert 0 < len(found) < len(stored)
    assert Counter(found.labels.tolist()) == Counter(labels.values())
    for place in found:
        rows = pq.ParquetFile(place.shard).read_row_group(place.group).to_pylist()
        assert rows[place.row]["image_id"] == place.image_id
        assert labels[place.image_id] == place.label
    assert len({place.shard for place in found}) > 2


def test_row_index_within_one_row_group(aligned_table: Path) -> None:
    table = Table(aligned_table, "aligned")
    stored = table.columns(["image_id"])["image_id"].to_pylist()
    found = row_index(table, {stored[7]: 3, stored[2]: 1, "unknown": 5})
    assert [(p.image_id, p.label, p.group, p.row) for p in found] == [(stored[2], 1, 0, 2), (stored[7], 3, 0, 7)]
    assert found.group_starts().tolist() == [0, 2]


def test_row_index_of_nobody(small_groups: Table) -> None:
    assert list(row_index(small_groups, {})) == []


def test_row_groups_of_two_shards_are_told_apart() -> None:
    """Group 0 of one shard and group 0 of the next, with nothing between them."""
    numbers = np.array([(0, 0, 0, 5), (0, 1, 0, 6), (0, 1, 0, 7), (0, 1, 1, 0)], np.int32)
    found = RowIndex([Path("a"), Path("b")], pa.array(list("wxyz")), numbers)
    assert found.group_starts().tolist() == [0, 1, 3, 4]
    assert found[1] == FaceLocation("x", 0, Path("b"), 0, 6)


def test_row_index_is_light(tmp_path: Path) -> None:
    """Ten thousand images take no more memory than their ids and four numbers each, and an epoch's order two."""
    labels = {f"person/{number:08d}.jpg": 0 for number in range(10_000)}
    shared = {"identity": "person", "source": "", **EMPTY_IMAGE, **DETECTED}
    table = Table(write_rows(tmp_path / "many", "aligned", ({"image_id": i, **shared} for i in labels)), "aligned")
    in_arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    found = row_index(table, labels)
    sampler = Batches(found, 64, 0)
    assert sum(len(batch) for batch in sampler) == len(found) == 10_000
    now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pa.total_allocated_bytes() - in_arrow < 10_000 * 32  # 19 characters and an offset each
    assert now < 10_000 * 32
    assert most < 10_000 * 100


# --- crops ----------------------------------------------------------------------------------------------------------


def test_crops_are_the_stored_ones(found: RowIndex, pixels: dict[str, RGB]) -> None:
    crops = FaceCrops(found, Degradation(), seed=0)
    assert len(crops) == len(found)
    for index, place in enumerate(found):
        clean, bad, label = crops[index, 1]
        np.testing.assert_array_equal(as_rgb(clean), pixels[place.image_id])
        assert torch.equal(clean, bad)
        assert label == place.label
    assert clean.shape == (3, 112, 112) and clean.dtype == torch.uint8


@pytest.mark.parametrize("degradation", ["noise:60", "dark"])
def test_validation_crops_are_degraded_alike_in_every_epoch_and_seed(
    found: RowIndex, pixels: dict[str, RGB], degradation: str
) -> None:
    spoil = Degradation.parse(degradation)
    first, second = FaceCrops(found, spoil, seed=0), FaceCrops(found, spoil, seed=1)
    for index, place in enumerate(islice(found, 5)):
        clean, bad, _ = first[index, 1]
        assert torch.equal(bad, first[index, 2][1]) and torch.equal(bad, second[index, 9][1])
        np.testing.assert_array_equal(as_rgb(clean), pixels[place.image_id])
        # The same as the evaluation does to held-out people.
        np.testing.assert_array_equal(as_rgb(bad), spoil(pixels[place.image_id], "probe", place.image_id))
        assert not torch.equal(clean, bad)


def test_training_crops_differ_by_epoch_and_seed(found: RowIndex) -> None:
    crops = FaceCrops(found, NOISE, 0, Augmentation(jitter=0.2))
    other = FaceCrops(found, NOISE, 1, Augmentation(jitter=0.2))
    bad = [crops[0, 1][1], crops[0, 2][1], crops[1, 1][1], other[0, 1][1]]
    assert not any(torch.equal(bad[a], bad[b]) for a in range(4) for b in range(a))
    still = FaceCrops(found, NOISE, 0, STILL)  # the noise alone differs
    assert torch.equal(still[0, 1][0], still[0, 2][0]) and not torch.equal(still[0, 1][1], still[0, 2][1])
    again = FaceCrops(found, NOISE, 0, Augmentation(jitter=0.2))
    for index in reversed(range(6)):  # in another order too
        for ours, theirs in zip(crops[index, 3], again[index, 3], strict=True):
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_both_training_crops_are_augmented_alike(found: RowIndex) -> None:
    """What the starting model sees is the crop that was degraded, mirrored with it."""
    crops = FaceCrops(found, Degradation.parse("blur:0.5"), 0, Augmentation())
    for index in range(10):
        clean, bad, _ = crops[index, 1]
        distance = (clean.float() - bad.float()).abs().mean()
        assert distance < 0.5 * (clean.flip(2).float() - bad.float()).abs().mean()


def test_noise_has_the_strength_asked_for(found: RowIndex) -> None:
    clean, bad, _ = FaceCrops(found, Degradation.parse("noise:10"), 0, STILL)[0, 1]
    middle = (clean > 60) & (clean < 195)
    assert float((bad.float() - clean.float())[middle].std()) == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("augmented", [True, False])
def test_number_of_workers_changes_nothing(found: RowIndex, augmented: bool) -> None:
    def batches(workers: int) -> list[list[Tensor]]:
        crops = FaceCrops(found, NOISE, 0, MUCH if augmented else None, degrade=0.5)
        sampler = Batches(found, 4, 0, "sampler")
        sampler.set_epoch(2)
        return list(loaded(DataLoader(crops, batch_sampler=sampler, num_workers=workers)))

    alone, together = batches(0), batches(2)
    assert len(alone) == len(together) == -(-len(found) // 4)
    for ours, theirs in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """How often each row group of each shard was read."""
    counted: Counter[tuple[str, int]] = Counter()

    class Counting(pq.ParquetFile):  # type: ignore[misc]  # pyarrow is untyped
        def read_row_group(self, group: int, **options: object) -> object:
            counted[self.name, group] += 1
            return super().read_row_group(group, **options)

        def __init__(self, path: Path, **options: object) -> None:
            self.name = path.name
            super().__init__(path, **options)

    monkeypatch.setattr(pq, "ParquetFile", Counting)
    return counted


def test_at_most_a_window_of_row_groups_is_kept(found: RowIndex, reads: Counter[tuple[str, int]]) -> None:
    crops = FaceCrops(found, Degradation(), 0)
    assert len(found) > WINDOW
    for index in range(len(found)):
        crops[index, 0]
        assert len(crops.image._groups) == min(index + 1, WINDOW)
    assert set(reads.values()) == {1}
    crops[len(found) - WINDOW, 0]  # the oldest that is kept, now the youngest
    assert set(reads.values()) == {1}
    crops[0, 0]  # gone, and read again in place of the least recently used one
    assert max(reads.values()) == 2
    crops[len(found) - WINDOW, 0]
    assert sum(reads.values()) == len(found) + 1
    crops[len(found) - WINDOW + 1, 0]
    assert sum(reads.values()) == len(found) + 2


def test_an_epoch_reads_each_row_group_once(found: RowIndex, reads: Counter[tuple[str, int]]) -> None:
    crops = FaceCrops(found, Degradation(), 0)
    for batch in Batches(found, 4, 0):
        for key in batch:
            crops[key]
    assert set(reads.values()) == {1} and len(reads) == len({(place.shard, place.group) for place in found})


@pytest.mark.parametrize("degrade", [0.0, 0.3, 1.0])
def test_a_share_of_the_training_crops_is_degraded(found: RowIndex, degrade: float) -> None:
    crops = FaceCrops(found, NOISE, 0, Augmentation(), degrade)
    bad = [not torch.equal(*crops[index, epoch][:2]) for index in range(len(found)) for epoch in range(12)]
    assert len(bad) == 300
    assert np.mean(bad) == pytest.approx(degrade, abs=0.1 if 0 < degrade < 1 else 0)
    some = FaceCrops(found, NOISE, 0, Augmentation(), 0.5)
    for index in range(5):  # whichever are, they are degraded as they always are
        clean, bad_or_not, _ = some[index, 1]
        assert torch.equal(bad_or_not, clean) or torch.equal(
            bad_or_not, FaceCrops(found, NOISE, 0, Augmentation())[index, 1][1]
        )


def test_a_mixed_crop_is_mostly_its_own_face(aligned_table: Path, pixels: dict[str, RGB]) -> None:
    """Another image of its row group lies over it, by a half at most; the label stays."""
    found = whole_index(aligned_table)
    crops = FaceCrops(found, Degradation(), 0, Augmentation(flip=0, mix=1.0))
    starts, shares, others = found.group_starts(), [], set()
    for index in range(len(found)):
        clean, seen, label = crops[index, 1]
        assert torch.equal(clean, seen) and label == found[index].label
        own = pixels[found[index].image_id].astype(float)
        group = int(np.searchsorted(starts, index, "right"))
        left = []
        for other in range(starts[group - 1], starts[group]):
            over = pixels[found[other].image_id].astype(float) - own
            if other != index:
                share = float((over * (as_rgb(clean) - own)).sum() / (over**2).sum())
                left.append((np.abs(own + share * over - as_rgb(clean)).max(), share, other))
        error, share, other = min(left)
        assert error < 1
        shares.append(share)
        others.add(other)
    assert 0 <= min(shares) < 0.1 and 0.4 < max(shares) <= 0.51
    assert len(others) > len(shares) / 3


def test_an_image_alone_in_its_row_group_mixes_with_itself(aligned_table: Path) -> None:
    table = Table(aligned_table, "aligned")
    one = row_index(table, dict.fromkeys([next(table.row_groups(["image_id"]))[0]["image_id"]], 0))
    clean, _, _ = FaceCrops(one, Degradation(), 0, Augmentation(flip=0, mix=1.0))[0, 1]
    assert torch.equal(clean, FaceCrops(one, Degradation(), 0)[0, 1][0])


def test_only_the_students_crop_is_degraded(found: RowIndex) -> None:
    """Its crop is the teacher's in grey, and then degraded."""
    both = Augmentation(flip=1.0)
    crops = FaceCrops(found, Degradation.parse("blur:1"), 0, Augmentation(flip=1.0, cutout=1.0))
    for index in range(5):
        clean, bad, _ = crops[index, 1]
        assert torch.equal(clean, FaceCrops(found, NOISE, 0, both)[index, 1][0])
        hidden = (bad == 127).all(0)
        assert 0.01 < hidden.float().mean() < 0.4
        assert not torch.equal(clean[:, ~hidden], bad[:, ~hidden])  # blurred


@pytest.mark.parametrize("augmentation", [None, MUCH])
def test_without_the_clean_crop(found: RowIndex, augmentation: Augmentation | None) -> None:
    whole, part = (FaceCrops(found, NOISE, 0, augmentation, clean=clean) for clean in (True, False))
    for index in range(len(found)):
        _, bad, label = whole[index, 3]
        assert torch.equal(part[index, 3][0], bad)
        assert part[index, 3][1:] == (label,)


def test_a_batch_is_torchs_with_channels_last(aligned_table: Path) -> None:
    crops = FaceCrops(whole_index(aligned_table), NOISE, 0)
    items = [crops[index, 1] for index in range(4)]
    for ours, torchs in zip(collate(items), default_collate(items), strict=True):
        assert ours.dtype == torchs.dtype and torch.equal(ours, torchs)
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in collate(items)[:2])


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(small_groups: Table, tmp_path: Path) -> Table:
    """A copy of the table for spoiling."""
    shutil.copytree(small_groups.folder, tmp_path / "aligned")
    return Table(tmp_path / "aligned", "aligned")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("how", ["gone", "cut", "overwritten"])
def test_a_corrupt_shard_is_named(damaged: Table, how: str, workers: int) -> None:
    found = row_index(damaged, labelled(damaged))
    path = found[0].shard
    assert isinstance(path, Path)
    if how == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if how == "cut" else bytes(len(data)))
    with pytest.raises(KubefaceError, match="run the step that wrote it again") as raised:
        read_all(found, workers)
    assert str(raised.value).startswith(f"{path} cannot be read (")
    with pytest.raises(KubefaceError, match="run the step that wrote it again"):
        row_index(damaged, {})


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("at", [0, 1000])
def test_an_image_that_cannot_be_decoded_is_named(aligned_table: Path, tmp_path: Path, at: int, workers: int) -> None:
    """Its bytes are spoilt at the signature, or cut off, before they are written."""
    rows = rows_of(aligned_table)
    image = rows[3]["image"]
    rows[3]["image"] = b"x" * 40 + image[40:] if at == 0 else image[:at]
    found = whole_index(write_rows(tmp_path / "spoilt", "aligned", rows))
    with pytest.raises(KubefaceError) as raised:
        read_all(found, workers)
    said = f"image {found[3].image_id} in {found[3].shard} cannot be decoded: run the step that wrote it again"
    assert str(raised.value) == said


def test_wherever_a_shard_is_damaged_the_error_says_so(damaged: Table) -> None:
    labels = labelled(damaged)
    found = row_index(damaged, labels)
    path = found[0].shard
    assert isinstance(path, Path)
    data, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for position in random.integers(0, len(data) - 32, 50).tolist() + list(range(len(data) - 2000, len(data), 100)):
        path.write_bytes(data[:position] + random.bytes(32) + data[position + 32 :])
        try:
            row_index(damaged, labels)
            for index in range(3):
                FaceCrops(found, NOISE, 0)[index, 0]
        except KubefaceError as error:
            refused += 1
            assert path.name in str(error) and "\n" not in str(error)
    assert refused > 17


@pytest.mark.slow
def test_a_table_in_a_store_is_read_where_it_is(
    small_groups: Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By ranges, in several processes, to the same crops as from disk; nothing is downloaded as a whole."""
    with local_store("kubeface") as environment, in_force(environment):
        objects.upload_folder(Path(small_groups.folder), "s3://kubeface/aligned")
        monkeypatch.setattr(objects, "download", None)
        remote = Table("s3://kubeface/aligned", "aligned")
        assert remote.sha256 == small_groups.sha256
        batches = []
        for table, workers in ((small_groups, 0), (remote, 0), (remote, 2)):
            found = row_index(table, labelled(table))
            loader = DataLoader(
                FaceCrops(found, NOISE, 0, MUCH), batch_sampler=Batches(found, 4, 0), num_workers=workers
            )
            batches.append(list(loaded(loader)))
    for local, alone, together in zip(*batches, strict=True):
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(local, alone, together, strict=True))
