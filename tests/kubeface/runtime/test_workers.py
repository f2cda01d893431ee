"""Work in order on several threads."""

import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeface.runtime.workers import in_order
from kubeface.tables.table import by_pixels


@given(items=st.lists(st.integers(0, 3), max_size=30), workers=st.integers(1, 4))
def test_results_come_in_the_order_of_the_items(items: list[int], workers: int) -> None:
    def work(item: int) -> int:
        time.sleep(item / 10_000)
        return item * item

    assert list(in_order(work, items, workers)) == [item * item for item in items]


@pytest.mark.parametrize("workers", [1, 3])
def test_only_few_items_are_begun_before_results_are_taken(workers: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    results = in_order(lambda item: item, items(), workers)
    assert next(results) == 0
    assert taken == 2 * workers
    results.close()
    assert taken == 2 * workers


def test_all_workers_work_at_once() -> None:
    barrier = threading.Barrier(3, timeout=10)
    assert len(list(in_order(lambda item: barrier.wait(), range(3), 3))) == 3


def test_an_error_comes_out_at_its_turn_and_ends_the_rest() -> None:
    done = []

    def work(item: int) -> int:
        if item == 3:
            raise ValueError("item 3")
        done.append(item)
        return item

    results = in_order(work, range(1000), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="item 3"):
        list(results)
    assert len(done) < 20


@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=30),
    pixels=st.integers(1, 3000),
)
def test_batches_keep_every_row_and_hold_to_the_pixels(sizes: list[tuple[int, int]], pixels: int) -> None:
    rows = [{"width": width, "height": height, "number": number} for number, (width, height) in enumerate(sizes)]
    batches = list(by_pixels(rows, pixels))
    assert [row for batch in batches for row in batch] == rows
    for batch in batches:
        assert len(batch) == 1 or sum(row["width"] * row["height"] for row in batch) <= pixels
    for batch, after in pairwise(batches):
        both = [*batch, after[0]]
        assert sum(row["width"] * row["height"] for row in both) > pixels  # none could have held one more
