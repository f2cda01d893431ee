"""Lists of files as columns: the same as lists of objects, in a tenth of the memory."""

import os
import tracemalloc
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from kubeface.runtime.packed_lists import FileList, StoredFile, parts

names = st.text(
    st.characters(exclude_characters="\0"), min_size=1, max_size=12
)  # surrogates stand for bytes that are no UTF-8
names = names.map(lambda name: name.encode("utf-8", "ignore") or b"x").map(lambda name: name.decode("utf-8"))
files = st.lists(st.builds(StoredFile, names | st.just("caf\udce9"), st.integers(0, 2**40), st.text("0a", max_size=4)))


@given(files)
def test_a_file_list_is_a_sorted_list(found: list[StoredFile]) -> None:
    columns = FileList.of(iter(found))
    expected = sorted({file.name: file for file in found}.values(), key=lambda file: os.fsencode(file.name))
    assert list(columns) == expected == [columns[place] for place in range(len(columns))]
    assert len(columns) == len(expected)
    assert list(columns.names()) == [file.name for file in expected]
    for place, file in enumerate(expected):
        assert columns.place(file.name) == place
    assert list(columns[1:3]) == expected[1:3]
    assert list(columns.where(lambda file: file.size % 2 == 0)) == [file for file in expected if file.size % 2 == 0]
    assert list(columns.take(reversed(range(len(expected))))) == expected[::-1]


def test_a_file_takes_about_a_hundred_bytes() -> None:
    count = 20_000
    tracemalloc.start()
    columns = FileList.of(
        StoredFile(f"people/person {number // 10}/photograph {number:07}.jpg", number, f"{number:032x}")
        for number in range(count)
    )
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(columns) == count
    import pyarrow as pa

    assert kept / count < 10  # what Python holds; Arrow's memory is counted apart
    assert pa.total_allocated_bytes() / count < 150


@given(st.text("a./…", min_size=1))
def test_parts_are_pathlibs(name: str) -> None:
    path = PurePosixPath(name)
    assert parts(name) == list(path.parts[1:] if path.is_absolute() else path.parts)


def test_ordered_gives_the_original_positions() -> None:
    files, places = FileList.ordered(StoredFile(name, size, "") for size, name in enumerate("bab"))
    assert list(files) == [StoredFile("a", 1, ""), StoredFile("b", 2, "")] and places.tolist() == [1, 2]
    assert FileList.ordered([])[1].tolist() == []
