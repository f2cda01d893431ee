"""A user's pairs file: what is read, and what is said about what is wrong in it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeface.evaluate.user_pairs import COLUMNS, read_user_pairs
from kubeface.runtime.errors import KubefaceError

INDEX = {"ann/1.jpg": 0, "ann/2.jpg": 1, "bob/1.jpg": 2, "Bob, junior/1.jpg": 3, "id0": 0, "id2": 2}


def written(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "pairs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def read(tmp_path: Path, text: str | bytes) -> list[tuple[int, int, bool]]:
    pairs = read_user_pairs(written(tmp_path, text), INDEX)
    return list(zip(pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist(), strict=True))


def test_pairs_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "left,right,same\nann/1.jpg,ann/2.jpg,1\nbob/1.jpg,ann/2.jpg,0\nid0,id2,no\n"
    assert read(tmp_path, text) == [(0, 1, True), (2, 1, False), (0, 2, False)]
    pairs = read_user_pairs(written(tmp_path, text), INDEX)
    assert pairs.left.dtype == pairs.right.dtype == np.int64
    assert pairs.same.dtype == np.bool_


@pytest.mark.parametrize(
    "text",
    [
        'same,left,right\nTrue,ann/1.jpg,ann/2.jpg\nFALSE,ann/1.jpg,"Bob, junior/1.jpg"\n',
        '\ufeffLeft, Right, Same\r\nann/1.jpg, ann/2.jpg, yes\r\n\r\nann/1.jpg, "Bob, junior/1.jpg", No\r\n',
        'left,right,same\nid0,ann/2.jpg,1\n,,\nid0,"Bob, junior/1.jpg",0',
    ],
)
def test_spellings_that_are_read_alike(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == [(0, 1, True), (0, 3, False)]


GOOD = "left,right,same\nann/1.jpg,ann/2.jpg,1\nann/1.jpg,bob/1.jpg,0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"pairs\.csv is empty: a header left,right,same is expected"),
        ("\n\n", r"pairs\.csv is empty"),
        ("left,right,same\n", "has 0 pairs of one person and 0 of two: both kinds"),
        ("left,right,equal\n", r"line 1: column 'equal' is unknown"),
        ("left,right,same,same\n", r"line 1: column 'same' is unknown or occurs twice"),
        ("left,right\n", r"line 1: column 'same' is missing"),
        ("ann/1.jpg,ann/2.jpg,1\n", r"line 1: column 'ann/1\.jpg' is unknown"),
        (GOOD + "ann/2.jpg,bob/1.jpg,maybe\n", r"line 4: same is 'maybe', 1, true, yes, 0, false, no are known"),
        (GOOD + "ann/2.jpg,bob/1.jpg,\n", r"line 4: same is ''"),
        (GOOD + "ann/2.jpg,bob/1.jpg\n", r"line 4 has 2 fields, the header has 3"),
        (GOOD + "\nann/2.jpg,bob/1.jpg,0,x\n", r"line 5 has 4 fields"),
        (
            GOOD + "x/1.jpg,id2,0\nx/1.jpg,y/1.jpg,0\n",
            r"names 2 images .* the 4 to be .* 'x/1\.jpg' in line 4 fir",
        ),
        (GOOD + "bob/1.jpg,ann/1.jpg,0\n", r"line 4: bob/1\.jpg and ann/1\.jpg are a pair of line 3 already"),
        (GOOD + "id0,ann/2.jpg,0\n", r"line 4: id0 and ann/2\.jpg are a pair of line 2 already"),
        (GOOD + "ann/1.jpg,id0,1\n", r"line 4: ann/1\.jpg is paired with itself"),
        ("left,right,same\nann/1.jpg,ann/2.jpg,1\n", "has 1 pairs of one person and 0 of two: both kinds are needed"),
        ("left,right,same\nann/1.jpg,bob/1.jpg,0\n", "has 0 pairs of one person and 1 of two: both kinds are needed"),
        (GOOD + '"ann/2.jpg,bob/1.jpg,0\n', r"line 4: unexpected end of data"),
        (GOOD.encode() + b"ann/\xff.jpg,bob/1.jpg,0\n", r"is not UTF-8 text \(invalid start byte at byte 64\)"),
        (GOOD.encode("utf-16"), "is not UTF-8 text"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(KubefaceError, match=message):
        read(tmp_path, text)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="does not exist"):
        read_user_pairs(str(tmp_path / "none.csv"), INDEX)


@given(data=st.data())
@settings(max_examples=30)
def test_any_pairs_are_read_back(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    index = {f"p{i}/{i}.jpg": i for i in range(8)}
    names = list(index)
    every = [(a, b) for a in range(8) for b in range(8) if a < b]
    chosen = data.draw(st.lists(st.sampled_from(every), min_size=2, unique=True))
    turned = [pair[::-1] if data.draw(st.booleans()) else pair for pair in chosen]
    same = [True, False, *(data.draw(st.booleans()) for _ in chosen[2:])]
    order = data.draw(st.permutations(COLUMNS))
    lines = [",".join(order)]
    for (left, right), truth in zip(turned, same, strict=True):
        row = {"left": names[left], "right": names[right], "same": data.draw(st.sampled_from(["1", "true", "yes"]))}
        if not truth:
            row["same"] = data.draw(st.sampled_from(["0", "False", "NO"]))
        lines.append(",".join(row[column] for column in order))
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    path.write_text("\n".join(lines))
    pairs = read_user_pairs(str(path), index)
    assert list(zip(pairs.left, pairs.right, strict=True)) == turned
    assert pairs.same.tolist() == same


@given(text=st.text(alphabet='left,righsm\n"01 \r\0é', max_size=60))
def test_any_text_is_read_or_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(("left,right,same\n" + text).encode())
    with pytest.raises(KubefaceError):
        read_user_pairs(str(path), INDEX)
