"""Division of images for attributes and for classes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kubeface.records.tasks import ATTRIBUTES
from kubeface.split.division import NOT_TRAINED, IdentitySplit, too_few_reason, unit_hash
from kubeface.split.options import SplitOptions

TRAIN, VAL, HELDOUT = range(3)  # indices into PARTS: what is in an earlier part is excluded from a later one
PARTS = ("train", "val", "heldout")
GIVEN = {"train": TRAIN, "val": VAL, "test": HELDOUT}
UNASSIGNED = 3  # where the source has no division
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Images:
    """The images as numbers by row, ordered by identity and image_id."""

    index: pa.Table  # as `split` builds it
    identity: Ints  # 0, 1, … in this order
    # Equal numbers for images of identities that the audit takes for one person, of one `person` of the groups, and of
    # one photograph. Where it is not known, and for `person` and `cluster` where the audit drops the image, the number
    # is the image's own.
    same: Ints
    person: Ints
    cluster: Ints
    given: Ints  # part in the source's own division, or UNASSIGNED
    dropped: Flags  # by the audit
    rejected: Flags  # by the filter
    unit: Ints  # first row of the images that have to stay on one side

    def text(self, column: str, row: int) -> str:
        return str(self.index[column][int(row)])

    def unit_name(self, unit: int) -> str:
        """The name whose hash decides on a unit: the person of the groups, or the one that the audit takes it for."""
        return str(self.index["group_person"][int(unit)].as_py() or self.text("person", unit))

    def identities(self) -> Iterator[slice]:
        rows = len(self.identity)
        ends = [*np.flatnonzero(np.diff(self.identity)) + 1, rows] if rows else []
        return map(slice, [0, *ends[:-1]], ends)

    def photographs(self, rows: slice, among: Flags) -> int:
        """The number of photographs that those rows show for which `among` is set."""
        return len(self.index["photograph"][rows].filter(pa.array(among)).unique())

    def absent_parts(self) -> list[int]:
        """The parts that the source's division has no image in."""
        return [part for part in (HELDOUT, VAL) if not (self.given == part).any()]


def divide_labelled(index: pa.Table, options: SplitOptions) -> Iterator[IdentitySplit]:
    """Divides each identity: for attributes a person as a whole, for classes each class into all parts.

    The source's division is kept; a part that it does not have is taken out of what it gives to train. Images of one
    photograph, or one person, that end up in two parts are excluded from the later one.
    """
    images = _read_images(index, options)
    attributes = options.task == ATTRIBUTES
    whole = np.ones(len(index), np.bool_) if attributes else _unknown_classes(images, options)
    parts = _divide_people(images, options) if attributes else _divide_classes(images, whole, options)
    reasons = _reasons(images, parts, options)
    for rows in images.identities():
        why, own_parts = reasons[rows], parts[rows]
        remaining = np.array([reason is None for reason in why])
        if images.photographs(rows, remaining) < options.min_images:
            why = [reason or too_few_reason(options) for reason in why]
        elif not whole[rows.start] and not (remaining & (own_parts == TRAIN)).any():
            why = [reason or NOT_TRAINED for reason in why]
        divided = zip(index["image_id"][rows].to_pylist(), own_parts.tolist(), why, strict=True)
        yield IdentitySplit(
            images.text("identity", rows.start),
            images.text("person", rows.start) if attributes else None,
            [(image_id, "excluded" if reason else PARTS[part], reason) for image_id, part, reason in divided],
            images.photographs(rows, np.array([reason is None for reason in why])),
        )


def _read_images(index: pa.Table, options: SplitOptions) -> Images:
    """The columns as numbers, and the units: near-duplicates, and the images of a person."""
    dropped, rejected = (index[name].is_valid().to_numpy() for name in ("dropped", "rejected"))
    given = np.array([GIVEN.get(text, UNASSIGNED) for text in index["given_split"].to_pylist()], np.int64)
    same, person, cluster = (_codes(index[name]) for name in ("person", "group_person", "cluster"))
    for codes in (person, cluster):
        codes[dropped] = len(index) + np.flatnonzero(dropped)
    unit = _connected([person, cluster, *([same] if options.task == ATTRIBUTES else [])])
    return Images(index, _codes(index["identity"]), same, person, cluster, given, dropped, rejected, unit)


def _codes(column: pa.ChunkedArray) -> Ints:
    """Equal numbers for equal texts, in order of appearance; a null has a number of its own from len(column) on."""
    indices = column.combine_chunks().dictionary_encode().indices
    codes = np.asarray(indices.fill_null(-1).to_numpy(), np.int64).copy()
    nulls = np.flatnonzero(codes < 0)
    codes[nulls] = len(codes) + nulls
    return codes


def _connected(links: list[Ints]) -> Ints:
    """By row the first row of its connected component, where rows with equal numbers in any of the links are joined."""
    unit = np.arange(len(links[0]))
    while True:
        before = unit
        for codes in links:
            unit = _least(codes, unit)
        unit = unit[unit]  # shortens long chains
        if np.array_equal(unit, before):
            return unit


def _least(codes: Ints, values: Ints, among: Flags | None = None) -> Ints:
    """By row the least value of the rows with the same code; UNASSIGNED where none of them is in `among`."""
    least = np.full(2 * len(codes), UNASSIGNED if among is not None else len(codes))
    np.minimum.at(least, *((codes, values) if among is None else (codes[among], values[among])))
    return least[codes]


def _divide_people(images: Images, options: SplitOptions) -> Ints:
    """The part of each image; where the source gives none, a hash of the unit's name decides."""
    people = _connected([images.same, images.person])
    first = _least(people, images.given, images.given != UNASSIGNED)  # what the source gives of the person
    parts = np.where(images.given == UNASSIGNED, first, images.given)
    given_to_train = np.flatnonzero((first == TRAIN) & (parts == TRAIN))
    _assign_by_hash(images, parts, np.flatnonzero(first == UNASSIGNED), [HELDOUT, VAL], options)
    _assign_by_hash(images, parts, given_to_train, images.absent_parts(), options)
    return parts


def _assign_by_hash(images: Images, parts: Ints, rows: Ints, wanted: list[int], options: SplitOptions) -> None:
    """Sets the parts of rows by the names of their units."""
    units, inverse = np.unique(images.unit[rows], return_inverse=True)
    by_unit = [_part_by_hash(images.unit_name(unit), wanted, options) for unit in units]
    parts[rows] = np.array(by_unit, np.int64)[inverse]


def _part_by_hash(name: str, wanted: list[int], options: SplitOptions) -> int:
    """The part, one of `wanted` or train, of all images of a name; recognition holds out the same people."""
    if HELDOUT in wanted and unit_hash(options.seed, "person", name) < options.heldout_fraction:
        return HELDOUT
    return VAL if VAL in wanted and unit_hash(options.seed, "val person", name) < options.val_fraction else TRAIN


def _unknown_classes(images: Images, options: SplitOptions) -> Flags:
    """By row whether its class is held out whole: by a hash of its name, or since all of it is given as test."""
    whole = np.zeros(len(images.identity), np.bool_)
    for rows in images.identities():
        name = images.text("person", rows.start)
        chosen = unit_hash(options.seed, "class", name) < options.unknown_fraction
        whole[rows] = chosen or (images.given[rows] == HELDOUT).all()
    return whole


def _divide_classes(images: Images, whole: Flags, options: SplitOptions) -> Ints:
    """The part of each image: each class is divided by itself, but for people who are in several."""
    parts = np.where(images.given == UNASSIGNED, TRAIN, images.given)
    absent = images.absent_parts()
    given = _least(images.unit, images.given, images.given != UNASSIGNED)
    spans = _least(images.unit, images.identity) != -_least(images.unit, -images.identity)  # several classes
    outside = _least(images.unit, np.where(whole, 0, 1)) == 0  # with an image in a class that is held out whole
    people = spans & ~outside & (parts == TRAIN)
    _assign_by_hash(images, parts, np.flatnonzero(people & (given == UNASSIGNED)), [HELDOUT, VAL], options)
    _assign_by_hash(images, parts, np.flatnonzero(people & (given != UNASSIGNED)), absent, options)
    parts[whole | (spans & outside)] = HELDOUT
    for rows in images.identities():
        if not whole[rows.start]:
            wanted = [HELDOUT, VAL] if (images.given[rows] == UNASSIGNED).all() else absent
            usable = ~(images.dropped[rows] | spans[rows]) & (parts[rows] == TRAIN)
            chosen = rows.start + np.flatnonzero(usable)
            parts[chosen] = _divide_class(images, chosen, wanted, options)
    return parts


def _divide_class(images: Images, rows: Ints, wanted: list[int], options: SplitOptions) -> Ints:
    """The part of each of a class's images: units stay together, and each part gets one where there are enough.

    Train is served first, then heldout, then val. Where the filter counts, units of which it kept an image are the
    first to be held out or validated on.
    """
    units, inverse = np.unique(images.unit[rows], return_inverse=True)
    counted = ~images.rejected[rows] | (options.apply_filter != "all")
    sizes = np.bincount(inverse, counted).astype(np.int64)
    kept = np.bincount(inverse, ~images.rejected[rows] | (not options.filtered_parts)) > 0
    rank = {
        unit: (not kept[unit], unit_hash(options.seed, "image", images.text("cluster", units[unit])))
        for unit in np.flatnonzero(sizes).tolist()
    }
    remaining, parts = sorted(rank, key=lambda unit: rank[unit]), np.full(len(units), TRAIN)
    count = sizes.sum()
    for part, fraction in ((HELDOUT, options.heldout_fraction), (VAL, options.val_fraction)):
        if part in wanted and fraction:
            val_follows = part == HELDOUT and VAL in wanted and options.val_fraction > 0 and len(remaining) > 2
            candidates = remaining[: max(0, len(remaining) - 1 - val_follows)]
            chosen = _fill(candidates, sizes, max(1, round(fraction * count)), kept)
            parts[list(chosen)] = part
            remaining = [unit for unit in remaining if unit not in chosen]
            count = sizes[remaining].sum()
    return np.asarray(parts[inverse], np.int64)


def _fill(ranked: list[int], sizes: Ints, count: int, kept: Flags) -> set[int]:
    """As many of the first units as fit into a number of images; the smallest where none does."""
    chosen = set()
    for unit in ranked:
        if sizes[unit] <= count:
            chosen.add(unit)
            count -= int(sizes[unit])
    return chosen or set(sorted(ranked, key=lambda unit: (not kept[unit], sizes[unit]))[:1])


def _reasons(images: Images, parts: Ints, options: SplitOptions) -> list[str | None]:
    """Why each image is excluded, None where it is not."""
    counts = ~images.dropped
    people = _connected([images.same, images.person]) if options.task == ATTRIBUTES else images.person
    of_person, of_photograph = (_least(codes, parts, counts) for codes in (people, images.cluster))
    verbs, nouns = ("trained on", "validated on"), ("training", "validation")
    dropped, rejected = images.index["dropped"], images.index["rejected"]
    reasons: list[str | None] = [None] * len(parts)
    suspects = images.dropped | images.rejected | (parts > of_person) | (parts > of_photograph)
    for row in np.flatnonzero(suspects).tolist():
        part = int(parts[row])
        if images.dropped[row]:
            reasons[row] = f"audit: {dropped[row]}"
        elif part > of_person[row]:
            given = "test" if part == HELDOUT else "val"
            reasons[row] = f"given as {given}, but the person is {verbs[of_person[row]]}"
        elif part > of_photograph[row]:
            reasons[row] = f"near-duplicate of a {nouns[of_photograph[row]]} image"
        elif images.rejected[row] and PARTS[part] in options.filtered_parts:
            reasons[row] = f"filter: {rejected[row]}"
    return reasons
