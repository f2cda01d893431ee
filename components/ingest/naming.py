"""Who is in an image: what its folder, its name or a listing says."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from components.faces.errors import KubefaceError, require
from components.faces.fetch import fetch
from components.faces.files import parts

SPLITS = ("train", "val")
# Folders of the same faces in low and in high resolution, as data sets for super-resolution have them.
RESOLUTIONS = {"vlr_images": "low", "hr_images": "high"}
LISTINGS = (".csv", ".parquet")


@dataclass(frozen=True)
class Label:
    """What is known of an image.

    Args:
        identity: the person.
        place: where the person's images lie; one identity in two places may be two people.
        given_split: train or val where the source came divided.
        groups: what else is known, by name: camera, age, resolution …
    """

    identity: str
    place: str = ""
    given_split: str | None = None
    groups: dict[str, str] = field(default_factory=dict)


# The label of a file by its name below the source; None where nothing says who it is.
Naming = Callable[[str], Label | None]


def by_folder(name: str) -> Label | None:
    """The folder that the file lies in names the person; `train`, `val`, `vlr_images` and `hr_images` may lie above."""
    folders = parts(name)[:-1]
    if not folders:
        return None
    identity = folders.pop()
    split, groups, above = _wrappers(folders)
    return Label(identity, "/".join([*above, identity]), split, groups)


def by_pattern(pattern: str) -> Naming:
    """A regular expression that is searched in the file's name, or in its path where it contains a slash.

    Its group `identity`, or else its first group, names the person: `^(\\d{3})_` finds 007 in
    `007_01_01_010_00_crop_128.png`. Group `split` gives train or val, other named groups are kept as groups.

    Raises:
        KubefaceError: no regular expression, or one without a group; on use, a split that is neither train nor val.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise KubefaceError(f"identity_pattern '{pattern}' is no regular expression: {error}") from None
    require(wanted.groups > 0, f"identity_pattern '{pattern}' has no group: put what names the person in brackets")

    def name_it(name: str) -> Label | None:
        *folders, file = parts(name) or [""]
        found = wanted.search(name if "/" in pattern else file)
        known = {} if found is None else {key: value for key, value in found.groupdict().items() if value}
        identity = found and (known.pop("identity", None) or found.group(1))
        if not identity:
            return None
        split, groups, _ = _wrappers(folders)
        split = known.pop("split", split)
        require(split in (None, *SPLITS), f"identity_pattern finds split '{split}' in {name}: it must be train or val")
        return Label(identity, "", split, groups | known)

    return name_it


def by_listing(uri: str) -> dict[str, Label]:
    """Labels by file name, from a table with the columns path and identity; a column split holds train, val or nothing,
    and all others are kept as groups.

    Args:
        uri: .csv or .parquet file (path, s3:// or https:// with #sha256=…); paths are relative to the source.

    Raises:
        KubefaceError: a file that cannot be read, lacks a column, or has a row without path or identity, with another
            split, or with a path that another row has with another label.
    """
    path = fetch(uri)
    labels: dict[str, Label] = {}
    for number, row in enumerate(_rows(uri, path), 2 if uri.lower().split("#")[0].endswith(".csv") else 1):
        require(
            None not in row, f"{uri} row {number} has more fields than the head has columns: quote what holds a comma"
        )
        values = {str(key): "" if value is None else str(value).strip() for key, value in row.items()}
        name, identity, split = (values.pop(key, "") for key in ("path", "identity", "split"))
        require(bool(name and identity), f"{uri} row {number} names no path or no identity: complete it")
        require(split in ("", *SPLITS), f"{uri} row {number} has split '{split}': use train, val or nothing")
        label = Label(identity, "", split or None, {key: value for key, value in values.items() if value})
        known = labels.setdefault(str(PurePosixPath(name)), label)
        require(known == label, f"{uri} row {number} says something else of '{name}' than a row before it: keep one")
    require(bool(labels), f"{uri} lists no image")
    return labels


def _rows(uri: str, path: Path) -> list[dict[str | None, object]]:
    rows: list[dict[str | None, object]]
    try:
        if uri.lower().split("#")[0].endswith(".parquet"):
            found = pq.read_table(path)
            rows, columns = found.to_pylist(), found.column_names
        else:
            table = csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline=""))
            rows, columns = list(table), table.fieldnames or []
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise KubefaceError(f"{uri} is not a readable listing: {' '.join(str(error).split())}") from None
    missing = {"path", "identity"} - set(columns)
    require(not missing, f"{uri} has no column {' and no column '.join(sorted(missing))}: path and identity are needed")
    return rows


def _wrappers(folders: list[str]) -> tuple[str | None, dict[str, str], list[str]]:
    """Split and resolution that the innermost folders stand for, and the folders above them."""
    split, groups = None, {}
    while folders and folders[-1] in (*SPLITS, *RESOLUTIONS):
        folder = folders.pop()
        if folder in SPLITS:
            split = folder
        else:
            groups["resolution"] = RESOLUTIONS[folder]
    return split, groups, folders
