"""The order of an epoch: shuffled, shared among processes, taken up in the middle, balanced."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeface.finetune.data import AGAIN, Batches
from kubeface.finetune.distributed import Group
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.row_index import WINDOW, RowIndex

from .conftest import row_index_of

GROUPS = st.lists(st.integers(1, 9), min_size=1, max_size=50)


def walk(sampler: Batches, epoch: int = 0, start: int = 0) -> list[list[tuple[int, int]]]:
    sampler.set_epoch(epoch, start)
    return list(sampler)


@given(groups=GROUPS, batch_size=st.integers(1, 40), seed=st.integers(0, 100), epoch=st.integers(0, 100))
def test_every_index_comes_once_an_epoch(groups: list[int], batch_size: int, seed: int, epoch: int) -> None:
    sampler = Batches(row_index_of(groups), batch_size, seed)
    batches = walk(sampler, epoch)
    assert sorted(index for batch in batches for index, _ in batch) == list(range(sum(groups)))
    assert {number for batch in batches for _, number in batch} == {epoch}
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(sampler) - 1)
    assert len(batches) == len(sampler)


def order(seed: int, epoch: int, groups: int = 40) -> list[int]:
    return [index for batch in walk(Batches(row_index_of([5] * groups), 7, seed), epoch) for index, _ in batch]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert order(1, 1) == order(1, 1)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (1, 2, 3)}) == 6


def test_order_is_mixed() -> None:
    """Neighbours in an epoch seldom come from one row group, and no group keeps its place."""
    groups = [index // 5 for index in order(0, 1)]
    assert sum(a == b for a, b in pairwise(groups)) < 0.25 * len(groups)
    places_of_first = [order(0, epoch).index(0) for epoch in range(20)]
    assert np.std(places_of_first) > 30


@pytest.mark.parametrize("balance", ["none", "sampler"])
def test_reading_stays_within_a_window_of_groups(balance: str) -> None:
    """Sixteen row groups are used up before another one is begun, so that no more need be kept."""
    labels = [int(index % 4 == 0) for index in range(200)]
    sampler = Batches(row_index_of([5] * 40, labels), 7, 0, balance)
    groups = [index // 5 for batch in walk(sampler, 1) for index, _ in batch]
    last = {group: position for position, group in enumerate(groups)}
    first = {group: len(groups) - 1 - position for position, group in enumerate(reversed(groups))}
    open_at_once = [sum(first[g] <= position <= last[g] for g in first) for position in range(len(groups))]
    assert 8 < max(open_at_once) <= WINDOW


@given(
    groups=GROUPS,
    size=st.integers(1, 10),
    replicas=st.integers(1, 5),
    least=st.integers(1, 2),
    balance=st.sampled_from(["none", "sampler"]),
    start=st.integers(0, 3),
)
def test_the_processes_share_what_one_would_see(
    groups: list[int], size: int, replicas: int, least: int, balance: str, start: int
) -> None:
    found, batch_size = row_index_of(groups, [index % 3 for index in range(sum(groups))]), least * size * replicas
    whole = walk(Batches(found, batch_size, 3, balance), 2, start)
    try:
        samplers = [Batches(found, batch_size, 3, balance, Group(rank, replicas), least) for rank in range(replicas)]
    except KubefaceError:
        assert len(found) < least * replicas
        return
    shares = [walk(sampler, 2, start) for sampler in samplers]
    assert {len(share) for share in shares} == {max(0, len(samplers[0]) - start)}
    for step, together in enumerate(zip(*shares, strict=True)):
        sizes = [len(share) for share in together]
        assert sizes == sorted(sizes, reverse=True) and least <= sizes[-1] and sizes[0] - sizes[-1] <= 1
        merged = [share[i] for i in range(sizes[0]) for share in together if i < len(share)]
        assert merged == whole[step]
    # Nothing is left out but a last batch that is too small.
    left_out = whole[len(shares[0]) :]
    assert len(left_out) <= 1 and all(len(batch) < least * replicas for batch in left_out)


@given(groups=GROUPS, batch_size=st.integers(1, 20), start=st.integers(0, 30))
def test_an_epoch_can_be_taken_up_in_the_middle(groups: list[int], batch_size: int, start: int) -> None:
    sampler = Batches(row_index_of(groups), batch_size, 0)
    batches = walk(sampler, 5)
    assert walk(sampler, 5, start) == batches[start:]
    assert len(sampler) == len(batches)  # of the whole epoch, for the schedule of the learning rate
    assert walk(sampler, 5) == batches  # and the next one begins at its beginning


@pytest.mark.parametrize(
    ("size", "processes", "least", "said"),
    [
        (0, 1, 1, "batch_size is 0: it must be a multiple of the 1 processes and at least 1"),
        (10, 4, 1, "batch_size is 10: it must be a multiple of the 4 processes and at least 4"),
        (1, 1, 2, "batch_size is 1: it must be a multiple of the 1 processes and at least 2"),
        (16, 8, 1, "7 images are too few to train on: 8 processes need at least 1 each"),
    ],
)
def test_what_cannot_be_divided_is_refused(size: int, processes: int, least: int, said: str) -> None:
    with pytest.raises(KubefaceError, match=f"^{said}$"):
        Batches(row_index_of([7]), size, 0, group=Group(0, processes), least=least)


# --- balance --------------------------------------------------------------------------------------------------------

UNEVEN = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def uneven(sizes: list[int]) -> RowIndex:
    """Classes of these sizes, mixed over row groups of five."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes)).tolist()
    return row_index_of([5] * (len(labels) // 5) + [len(labels) % 5] * (len(labels) % 5 > 0), labels)


@given(sizes=UNEVEN, seed=st.integers(0, 100))
def test_sampler_draws_from_every_class_equally(sizes: list[int], seed: int) -> None:
    found = uneven(sizes)
    keys = [key for batch in walk(Batches(found, 6, seed, "sampler"), 4) for key in batch]
    assert len(keys) == len(set(keys)) == len(found)
    drawn = Counter(index for index, _ in keys)
    by_class = [
        [drawn[index] for index in np.flatnonzero(found.labels == label).tolist()] for label in range(len(sizes))
    ]
    totals = [sum(times) for times in by_class]
    assert max(totals) - min(totals) <= 1
    assert all(max(times) - min(times) <= 1 for times in by_class)  # none again before all came
    for index, times in drawn.items():  # an image that comes again is augmented in another way
        assert sorted(epoch for i, epoch in keys if i == index) == [4 + AGAIN * number for number in range(times)]


def test_sampler_draws_others_in_each_epoch() -> None:
    found = uneven([100, 2, 2, 2])
    sampler = Batches(found, 8, 0, "sampler")
    big = set(np.flatnonzero(found.labels == 0).tolist())
    drawn = [{index for batch in walk(sampler, epoch) for index, _ in batch} & big for epoch in range(30)]
    assert {len(part) for part in drawn} <= {26, 27}
    assert set.union(*drawn) == big
    again = Batches(found, 8, 0, "sampler")
    assert walk(sampler, 3) == walk(again, 3) != walk(sampler, 4)
    assert walk(Batches(found, 8, 1, "sampler"), 3) != walk(sampler, 3)


def test_a_class_has_its_odd_image_by_turns() -> None:
    """Five images of two classes: one class has three of them, and not always the same one."""
    found = row_index_of([5], [0, 0, 0, 0, 1])
    sampler = Batches(found, 5, 0, "sampler")
    three = [sum(int(found.labels[index]) for index, _ in walk(sampler, epoch)[0]) == 3 for epoch in range(60)]
    assert 15 < sum(three) < 45


@given(st.lists(st.floats(1, 20), min_size=1, max_size=400), st.integers(0, 100), st.integers(1, 5))
def test_images_are_drawn_in_proportion(factors: list[float], seed: int, epoch: int) -> None:
    shares = np.array(factors) / np.sum(factors) * len(factors)
    found = row_index_of([len(factors)])
    sampler, again = (Batches(found, 1, seed, "sampler", factors=np.array(factors)) for _ in range(2))
    keys = [key for batch in walk(again, epoch) for key in batch]
    sampler.set_epoch(epoch)
    drawn = sampler.drawn()
    assert len(drawn) == len(factors) and (again.drawn() == drawn).all()
    times = np.bincount(drawn, minlength=len(factors))
    assert (np.abs(times - shares) < 1 + 1e-6).all()
    assert len(set(keys)) == len(keys)  # what comes again is augmented in another way


def test_over_epochs_each_image_has_its_share() -> None:
    factors = np.where(np.arange(60) < 6, 3.0, 1.0)
    sampler = Batches(row_index_of([60]), 4, 0, "sampler", factors=factors)
    total = np.zeros(60)
    for epoch in range(1, 401):
        sampler.set_epoch(epoch)
        total += np.bincount(sampler.drawn(), minlength=60)
    assert total / 400 == pytest.approx(factors / factors.sum() * 60, abs=0.12)
