"""A user's own pairs of images: a CSV file with the columns left, right and same."""

import csv
import io
from collections.abc import Mapping

import numpy as np

from kubeface.metrics.pairs import Pairs
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage.downloads import fetch

COLUMNS = ("left", "right", "same")
TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def read_user_pairs(uri: str, index: Mapping[str, int]) -> Pairs:
    """Reads a pairs file: CSV (UTF-8) with the header left,right,same in any order, as `fetch` takes its address.

    Args:
        index: of each image by name; an image may have several (its image_id, its path below the data source).

    Returns:
        The pairs in the file's order, by index.

    Raises:
        KubefaceError: the file cannot be read; a column, an image or a truth value is unknown; a pair occurs twice
            or is an image with itself; all pairs are of one kind. The line is named.
    """
    pairs: dict[tuple[int, int], bool] = {}
    lines: dict[frozenset[int], int] = {}
    unknown: dict[str, int] = {}
    for line, row in _rows(uri):
        truth = TRUTHS.get(row["same"].strip().lower())
        require(truth is not None, f"{uri}, line {line}: same is '{row['same']}', {', '.join(TRUTHS)} are known")
        names = row["left"], row["right"]
        unknown |= {name: line for name in names if name not in index and name not in unknown}
        if unknown:
            continue
        left, right = (index[name] for name in names)
        require(left != right, f"{uri}, line {line}: {names[0]} is paired with itself")
        before = lines.setdefault(frozenset((left, right)), line)
        require(before == line, f"{uri}, line {line}: {names[0]} and {names[1]} are a pair of line {before} already")
        pairs[left, right] = bool(truth)
    if unknown:
        first, line = next(iter(unknown.items()))
        raise KubefaceError(
            f"{uri} names {len(unknown)} images that are not among the {len(set(index.values()))} to be evaluated, "
            f"'{first}' in line {line} first: write paths below the data source or image ids"
        )
    same = np.array(list(pairs.values()), bool)
    require(
        bool(same.any() and not same.all()),
        f"{uri} has {int(np.sum(same))} pairs of one person and {int(np.sum(~same))} of two: both kinds are needed",
    )
    places = np.array(list(pairs), np.int64)
    return Pairs(places[:, 0], places[:, 1], same)


def _rows(uri: str) -> list[tuple[int, dict[str, str]]]:
    """Line number and fields of each row that is not empty."""
    try:
        text = fetch(uri).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise KubefaceError(
            f"{uri} is not UTF-8 text ({error.reason} at byte {error.start}): save it as such"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        lines = [(reader.line_num, fields) for fields in reader if any(field.strip() for field in fields)]
    except csv.Error as error:
        raise KubefaceError(f"{uri}, line {reader.line_num}: {error}") from None
    require(bool(lines), f"{uri} is empty: a header {','.join(COLUMNS)} is expected")
    number, header = lines[0][0], [name.strip().lower() for name in lines[0][1]]
    for name in header:
        require(
            name in COLUMNS and header.count(name) == 1,
            f"{uri}, line {number}: column '{name}' is unknown or occurs twice, {', '.join(COLUMNS)} are expected",
        )
    lacking = [name for name in COLUMNS if name not in header]
    require(not lacking, f"{uri}, line {number}: column '{', '.join(lacking)}' is missing")
    for number, fields in lines[1:]:
        require(
            len(fields) == len(header), f"{uri}, line {number} has {len(fields)} fields, the header has {len(header)}"
        )
    return [(number, dict(zip(header, fields, strict=True))) for number, fields in lines[1:]]
