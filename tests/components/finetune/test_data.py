"""Training images: found, shuffled, augmented and degraded alike in any process."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from components.faces import table as table_module
from components.faces.degrade import Degradation
from components.faces.images import RGB, decode_rgb
from components.faces.seeded import seeded
from components.faces.table import Table, TableWriter
from components.finetune import data as data_module
from components.finetune.data import Augmentation, FaceCrops, InOrder, Place, WindowShuffle, places

NOISE = Degradation.parse("noise:60")


@pytest.fixture(scope="module")
def small_groups(aligned_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Table:
    """The thirty aligned crops again, in row groups of one and in several shards."""
    out = tmp_path_factory.mktemp("small") / "aligned"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "ROW_GROUP_ROWS", 1)
        patch.setattr(table_module, "SHARD_BYTES", 100_000)
        with TableWriter(out, "aligned", "test", {}) as writer:
            for rows in Table(aligned_table, "aligned").row_groups():
                for row in rows:
                    writer.add(row)
    table = Table(out, "aligned")
    assert len(table.paths) > 2
    return table


def labelled(table: Table) -> dict[str, int]:
    """Classes of all images but those of s1, whose people stand in alphabetical order."""
    rows = table.columns(["image_id", "identity"]).to_pylist()
    names = sorted({row["identity"] for row in rows} - {"s1"})
    return {row["image_id"]: names.index(row["identity"]) for row in rows if row["identity"] in names}


@pytest.fixture(scope="module")
def found(small_groups: Table) -> list[Place]:
    return places(small_groups, labelled(small_groups))


@pytest.fixture(scope="module")
def pixels(aligned_table: Path) -> dict[str, RGB]:
    """The crops by image id, read without any of the code under test."""
    return {
        row["image_id"]: decode_rgb(row["image"])
        for rows in Table(aligned_table, "aligned").row_groups(["image_id", "image"])
        for row in rows
    }


def made_up(groups: list[int]) -> list[Place]:
    """Places in row groups of these sizes, two groups a shard."""
    return [
        Place(f"{number}-{row}", 0, Path(f"shard-{number // 2}"), number % 2, row)
        for number, size in enumerate(groups)
        for row in range(size)
    ]


def as_rgb(tensor: Tensor) -> RGB:
    return tensor.permute(1, 2, 0).numpy()


# --- places ---------------------------------------------------------------------------------------------------------


def test_places_name_the_right_rows(small_groups: Table, found: list[Place]) -> None:
    labels = labelled(small_groups)
    stored = small_groups.columns(["image_id"])["image_id"].to_pylist()
    assert [place.image_id for place in found] == [i for i in stored if i in labels]
    assert 0 < len(found) < len(stored)
    assert Counter(place.label for place in found) == Counter(labels.values())
    for place in found:
        rows = pq.ParquetFile(place.shard).read_row_group(place.group).to_pylist()
        assert rows[place.row]["image_id"] == place.image_id
        assert labels[place.image_id] == place.label
    assert len({place.shard for place in found}) > 2


def test_places_in_one_row_group(aligned_table: Path) -> None:
    table = Table(aligned_table, "aligned")
    stored = table.columns(["image_id"])["image_id"].to_pylist()
    found = places(table, {stored[7]: 3, stored[2]: 1, "unknown": 5})
    assert [(p.image_id, p.label, p.group, p.row) for p in found] == [(stored[2], 1, 0, 2), (stored[7], 3, 0, 7)]


def test_places_of_nobody(small_groups: Table) -> None:
    assert places(small_groups, {}) == []


# --- order ----------------------------------------------------------------------------------------------------------


@given(groups=st.lists(st.integers(1, 9), max_size=50), seed=st.integers(0, 100), epoch=st.integers(0, 100))
def test_every_index_comes_once_an_epoch(groups: list[int], seed: int, epoch: int) -> None:
    sampler = WindowShuffle(made_up(groups), seed)
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert sorted(index for index, _ in keys) == list(range(sum(groups)))
    assert {number for _, number in keys} <= {epoch}
    assert len(sampler) == sum(groups)


def order(seed: int, epoch: int, groups: int = 40) -> list[int]:
    sampler = WindowShuffle(made_up([5] * groups), seed)
    sampler.set_epoch(epoch)
    return [index for index, _ in sampler]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert order(1, 1) == order(1, 1)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (1, 2, 3)}) == 6


def test_order_is_mixed() -> None:
    """Neighbours in an epoch seldom come from one row group, and no group keeps its place."""
    groups = [index // 5 for index in order(0, 1)]
    assert sum(a == b for a, b in pairwise(groups)) < 0.25 * len(groups)
    places_of_first = [order(0, epoch).index(0) for epoch in range(20)]
    assert np.std(places_of_first) > 30


def test_reading_stays_within_a_window_of_groups() -> None:
    """Sixteen row groups are used up before another one is begun, so that no more need be kept."""
    groups = [index // 5 for index in order(0, 1)]
    for start in range(0, len(groups), 5 * data_module.WINDOW):
        window = set(groups[start : start + 5 * data_module.WINDOW])
        assert len(window) <= data_module.WINDOW
        assert window.isdisjoint(groups[start + 5 * data_module.WINDOW :])


def test_in_order() -> None:
    assert list(InOrder(4)) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert len(InOrder(4)) == 4


# --- crops ----------------------------------------------------------------------------------------------------------


def test_crops_are_the_stored_ones(found: list[Place], pixels: dict[str, RGB]) -> None:
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
    found: list[Place], pixels: dict[str, RGB], degradation: str
) -> None:
    spoil = Degradation.parse(degradation)
    first, second = FaceCrops(found, spoil, seed=0), FaceCrops(found, spoil, seed=1)
    for index, place in enumerate(found[:5]):
        clean, bad, _ = first[index, 1]
        assert torch.equal(bad, first[index, 2][1]) and torch.equal(bad, second[index, 9][1])
        np.testing.assert_array_equal(as_rgb(clean), pixels[place.image_id])
        # The same as the evaluation does to held-out people.
        np.testing.assert_array_equal(as_rgb(bad), spoil(pixels[place.image_id], "probe", place.image_id))
        assert not torch.equal(clean, bad)


def test_training_crops_differ_by_epoch_and_seed(found: list[Place]) -> None:
    crops = FaceCrops(found, NOISE, 0, Augmentation(0.5, 0.2))
    other = FaceCrops(found, NOISE, 1, Augmentation(0.5, 0.2))
    bad = [crops[0, 1][1], crops[0, 2][1], crops[1, 1][1], other[0, 1][1]]
    assert not any(torch.equal(bad[a], bad[b]) for a in range(4) for b in range(a))
    still = FaceCrops(found, NOISE, 0, Augmentation(0.0, 0.0))  # the noise alone differs
    assert torch.equal(still[0, 1][0], still[0, 2][0]) and not torch.equal(still[0, 1][1], still[0, 2][1])
    again = FaceCrops(found, NOISE, 0, Augmentation(0.5, 0.2))
    for index in reversed(range(6)):  # in another order too
        for ours, theirs in zip(crops[index, 3], again[index, 3], strict=True):
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_both_training_crops_are_augmented_alike(found: list[Place]) -> None:
    """What the starting model sees is the crop that was degraded, mirrored with it."""
    crops = FaceCrops(found, Degradation.parse("blur:0.5"), 0, Augmentation(0.5, 0.0))
    for index in range(10):
        clean, bad, _ = crops[index, 1]
        distance = (clean.float() - bad.float()).abs().mean()
        assert distance < 0.5 * (clean.flip(2).float() - bad.float()).abs().mean()


def test_noise_has_the_strength_asked_for(found: list[Place]) -> None:
    clean, bad, _ = FaceCrops(found, Degradation.parse("noise:10"), 0, Augmentation(0.0, 0.0))[0, 1]
    middle = (clean > 60) & (clean < 195)
    assert float((bad.float() - clean.float())[middle].std()) == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("augmented", [True, False])
def test_number_of_workers_changes_nothing(found: list[Place], augmented: bool) -> None:
    def batches(workers: int) -> list[list[Tensor]]:
        crops = FaceCrops(found, NOISE, 0, Augmentation(0.5, 0.3) if augmented else None)
        sampler = WindowShuffle(found, 0)
        sampler.set_epoch(2)
        return list(DataLoader(crops, batch_size=4, sampler=sampler, num_workers=workers))

    alone, together = batches(0), batches(2)
    assert len(alone) == len(together) == -(-len(found) // 4)
    for ours, theirs in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_at_most_a_window_of_row_groups_is_kept(found: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[tuple[str, int]] = Counter()

    class Counting(pq.ParquetFile):
        def read_row_group(self, group: int, **options: object) -> object:
            reads[self.name, group] += 1
            return super().read_row_group(group, **options)

        def __init__(self, path: Path) -> None:
            self.name = path.name
            super().__init__(path)

    monkeypatch.setattr(data_module.pq, "ParquetFile", Counting)
    crops = FaceCrops(found, Degradation(), 0)
    assert len(found) > data_module.WINDOW
    for index in range(len(found)):
        crops[index, 0]
        assert len(crops._groups) == min(index + 1, data_module.WINDOW)
    assert set(reads.values()) == {1}
    crops[len(found) - data_module.WINDOW, 0]  # the oldest that is kept, now the youngest
    assert set(reads.values()) == {1}
    crops[0, 0]  # gone, and read again in place of the least recently used one
    assert max(reads.values()) == 2
    crops[len(found) - data_module.WINDOW, 0]
    assert sum(reads.values()) == len(found) + 1
    crops[len(found) - data_module.WINDOW + 1, 0]
    assert sum(reads.values()) == len(found) + 2


def test_an_epoch_reads_each_row_group_once(found: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    class Counting(pq.ParquetFile):
        def __init__(self, path: Path) -> None:
            opened.append(path)
            super().__init__(path)

    monkeypatch.setattr(data_module.pq, "ParquetFile", Counting)
    crops = FaceCrops(found, Degradation(), 0)
    for key in WindowShuffle(found, 0):
        crops[key]
    assert len(opened) == len({(place.shard, place.group) for place in found})


# --- augmentation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def crop(pixels: dict[str, RGB]) -> RGB:
    return next(iter(pixels.values()))


def test_flip_mirrors(crop: RGB) -> None:
    assert not np.array_equal(crop, crop[:, ::-1])
    for seed in range(5):
        np.testing.assert_array_equal(Augmentation(1.0)(crop, seeded(seed)), crop[:, ::-1])
        np.testing.assert_array_equal(Augmentation(0.0)(crop, seeded(seed)), crop)


def test_flip_with_a_probability(crop: RGB) -> None:
    mirrored = [np.array_equal(Augmentation(0.3)(crop, seeded(seed)), crop[:, ::-1]) for seed in range(400)]
    assert 0.22 < np.mean(mirrored) < 0.38


def test_jitter_changes_the_colours_within_bounds(crop: RGB) -> None:
    before = crop.copy()
    changed = [Augmentation(0.0, 0.3)(crop, seeded(seed)) for seed in range(30)]
    np.testing.assert_array_equal(crop, before)
    means = np.array([image.mean() for image in changed]) / crop.mean()
    assert means.std() > 0.05
    assert 0.6 < means.min() < means.max() < 1.4
    for image in changed:
        assert image.dtype == np.uint8 and image.shape == crop.shape and image.flags.c_contiguous
        # Brighter, darker or flatter, it is the same picture.
        assert np.corrcoef(image.ravel(), crop.ravel())[0, 1] > 0.95


def test_seeded_depends_on_its_key_alone() -> None:
    assert seeded(1, "a").random() == seeded(1, "a").random()
    assert len({seeded(*key).random() for key in [(1, "a"), (1, "b"), (2, "a"), ("1a",), (1, "a", 0)]}) == 5
