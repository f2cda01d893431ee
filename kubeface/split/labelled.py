"""How images with labels, and images of classes, are divided."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kubeface.records.tasks import ATTRIBUTES
from kubeface.split.division import NOT_TRAINED, PHOTOGRAPH, Divided, Plan, too_few, unit_hash

TRAIN, VAL, HELDOUT = range(3)  # places in PARTS: who is in an earlier part is left out of a later one
PARTS = ("train", "val", "heldout")
GIVEN = {"train": TRAIN, "val": VAL, "test": HELDOUT}
FREE = 3  # where the source says nothing
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Images:
    """The images as numbers by row, ordered by identity and image_id.

    identity: 0 and up in this order. same, person, cluster: equal for images of identities that the audit takes for
    one, of one `person` of the groups, and of one photograph; a number of its own where nothing is known, and for the
    last two where the audit drops the image. given: as GIVEN has it, or FREE. dropped, rejected: by audit and filter.
    unit: the least row of those that belong on one side.
    """

    index: pa.Table
    identity: Ints
    same: Ints
    person: Ints
    cluster: Ints
    given: Ints
    dropped: Flags
    rejected: Flags
    unit: Ints

    def text(self, column: str, row: int) -> str:
        """A column's text in a row."""
        return str(_column(self.index, column)[int(row)])

    def unit_name(self, unit: int) -> str:
        """What a unit's side hangs on: its person where the groups tell one, else what the audit takes it for."""
        return str(self.index["groups person"][int(unit)].as_py() or self.text("audit person", unit))

    def identities(self) -> Iterator[slice]:
        """The rows of each identity."""
        rows = len(self.identity)
        ends = [*np.flatnonzero(np.diff(self.identity)) + 1, rows] if rows else []
        return map(slice, [0, *ends[:-1]], ends)

    def photographs(self, rows: slice, among: Flags) -> int:
        """How many photographs an identity's rows show, of those `among` them; a pair of two resolutions is one."""
        if PHOTOGRAPH not in self.index.column_names:
            return int(among.sum())
        return len(self.index[PHOTOGRAPH][rows].filter(pa.array(among)).unique())

    def absent(self) -> list[int]:
        """The parts that the source gives no image to."""
        return [part for part in (HELDOUT, VAL) if not (self.given == part).any()]


def divide_labelled(index: pa.Table, plan: Plan) -> Iterator[Divided]:
    """Each identity in turn: for attributes a person whole on one side, for classes a class on all of them.

    What the source gives goes first; a part that it gives no image to is taken out of what it gives to train. Images
    that are left in two parts (of one photograph, or one person) are left out of the later.

    Args:
        index: as `split` makes it, ordered by identity and image_id, with the column `groups person`.
        plan: the settings.
    """
    images = _numbers(index, plan)
    attributes = plan.task == ATTRIBUTES
    whole = np.ones(len(index), np.bool_) if attributes else _unknown(images, plan)
    parts = _people(images, plan) if attributes else _classes(images, whole, plan)
    reasons = _reasons(images, parts, plan)
    for rows in images.identities():
        why, here = reasons[rows], parts[rows]
        left = np.array([reason is None for reason in why])
        if images.photographs(rows, left) < plan.min_images:
            why = [reason or too_few(plan) for reason in why]
        elif not whole[rows.start] and not (left & (here == TRAIN)).any():
            why = [reason or NOT_TRAINED for reason in why]
        told = zip(index["image_id"][rows].to_pylist(), here.tolist(), why, strict=True)
        yield Divided(
            images.text("identity", rows.start),
            images.text("audit person", rows.start) if attributes else None,
            [(image_id, "excluded" if reason else PARTS[part], reason) for image_id, part, reason in told],
            images.photographs(rows, np.array([reason is None for reason in why])),
        )


def _numbers(index: pa.Table, plan: Plan) -> Images:
    """The columns as numbers, and what belongs on one side: near-duplicates, a person's images."""
    rejected = index["filter reason"].is_valid().to_numpy()
    audited = "audit reason" in index.column_names
    dropped = index["audit reason"].is_valid().to_numpy() if audited else np.zeros(len(index), np.bool_)
    given = np.array([GIVEN.get(text, FREE) for text in index["given_split"].to_pylist()], np.int64)
    same, person, cluster = (
        _codes(_column(index, name)) for name in ("audit person", "groups person", "audit cluster")
    )
    for codes in (person, cluster):
        codes[dropped] = len(index) + np.flatnonzero(dropped)
    unit = _units([person, cluster, *([same] if plan.task == ATTRIBUTES else [])])
    return Images(index, _codes(index["identity"]), same, person, cluster, given, dropped, rejected, unit)


def _column(index: pa.Table, name: str) -> pa.ChunkedArray:
    """A column; without an audit an identity is its own person, and a photograph its own cluster."""
    photograph = PHOTOGRAPH if PHOTOGRAPH in index.column_names else "image_id"
    unaudited = {"audit person": "identity", "audit cluster": photograph}
    return index[name if name in index.column_names else unaudited[name]]


def _codes(column: pa.ChunkedArray) -> Ints:
    """Equal numbers for equal texts, in the order in which they come, and from the number of rows on for none."""
    found = column.combine_chunks().dictionary_encode().indices
    codes = np.asarray(found.fill_null(-1).to_numpy(), np.int64).copy()
    alone = np.flatnonzero(codes < 0)
    codes[alone] = len(codes) + alone
    return codes


def _units(links: list[Ints]) -> Ints:
    """The least row of those that equal numbers join, by row; what is joined to one of them is joined to all."""
    unit = np.arange(len(links[0]))
    while True:
        before = unit
        for codes in links:
            unit = _least(codes, unit)
        unit = unit[unit]  # long chains in few rounds
        if np.array_equal(unit, before):
            return unit


def _least(codes: Ints, values: Ints, among: Flags | None = None) -> Ints:
    """The least value, by row, of the rows with the same code; FREE at most where only those `among` count."""
    least = np.full(2 * len(codes), FREE if among is not None else len(codes))
    np.minimum.at(least, *((codes, values) if among is None else (codes[among], values[among])))
    return least[codes]


def _people(images: Images, plan: Plan) -> Ints:
    """The part of every image; where the source gives nothing a unit is on one side by a hash of its name."""
    people = _units([images.same, images.person])
    first = _least(people, images.given, images.given != FREE)  # what the source gives of the person
    parts = np.where(images.given == FREE, first, images.given)
    given_to_train = np.flatnonzero((first == TRAIN) & (parts == TRAIN))
    _by_hash(images, parts, np.flatnonzero(first == FREE), [HELDOUT, VAL], plan)
    _by_hash(images, parts, given_to_train, images.absent(), plan)
    return parts


def _by_hash(images: Images, parts: Ints, rows: Ints, wanted: list[int], plan: Plan) -> None:
    """Gives rows the part of their unit, which hangs on its name alone."""
    units, places = np.unique(images.unit[rows], return_inverse=True)
    sides = [_side(images.unit_name(unit), wanted, plan) for unit in units]
    parts[rows] = np.array(sides, np.int64)[places]


def _side(name: str, wanted: list[int], plan: Plan) -> int:
    """The part, of those wanted or train, of all images of a name; the people who are held out are recognition's."""
    if HELDOUT in wanted and unit_hash(plan.seed, "person", name) < plan.heldout_fraction:
        return HELDOUT
    return VAL if VAL in wanted and unit_hash(plan.seed, "val person", name) < plan.val_fraction else TRAIN


def _unknown(images: Images, plan: Plan) -> Flags:
    """Whether an image's class is held out whole: by a hash of its name, or since all of it is given as test."""
    whole = np.zeros(len(images.identity), np.bool_)
    for rows in images.identities():
        name = images.text("audit person", rows.start)
        chosen = unit_hash(plan.seed, "class", name) < plan.unknown_fraction
        whole[rows] = chosen or (images.given[rows] == HELDOUT).all()
    return whole


def _classes(images: Images, whole: Flags, plan: Plan) -> Ints:
    """The part of every image: each class is divided by itself, but for people who are in several."""
    parts = np.where(images.given == FREE, TRAIN, images.given)
    absent = images.absent()
    given = _least(images.unit, images.given, images.given != FREE)
    spans = _least(images.unit, images.identity) != -_least(images.unit, -images.identity)
    outside = _least(images.unit, np.where(whole, 0, 1)) == 0  # with an image in a class that is held out whole
    people = spans & ~outside & (parts == TRAIN)
    _by_hash(images, parts, np.flatnonzero(people & (given == FREE)), [HELDOUT, VAL], plan)
    _by_hash(images, parts, np.flatnonzero(people & (given != FREE)), absent, plan)
    parts[whole | (spans & outside)] = HELDOUT
    for place in images.identities():
        if not whole[place.start]:
            wanted = [HELDOUT, VAL] if (images.given[place] == FREE).all() else absent
            usable = ~(images.dropped[place] | spans[place]) & (parts[place] == TRAIN)
            rows = place.start + np.flatnonzero(usable)
            parts[rows] = _divide_class(images, rows, wanted, plan)
    return parts


def _divide_class(images: Images, rows: Ints, wanted: list[int], plan: Plan) -> Ints:
    """The part of each of a class's images: units go together, and at least one to every part where there are enough.

    Train goes first, then held out, then val. Where the filter's verdict counts, units of which it kept an image are
    the first to be held out or validated on.
    """
    units, places = np.unique(images.unit[rows], return_inverse=True)
    counted = ~images.rejected[rows] | (plan.apply_filter != "all")
    sizes = np.bincount(places, counted).astype(np.int64)
    kept = np.bincount(places, ~images.rejected[rows] | (not plan.leaves)) > 0
    rank = {
        unit: (not kept[unit], unit_hash(plan.seed, "image", images.text("audit cluster", units[unit])))
        for unit in np.flatnonzero(sizes).tolist()
    }
    left, parts = sorted(rank, key=lambda unit: rank[unit]), np.full(len(units), TRAIN)
    count = sizes.sum()
    for part, fraction in ((HELDOUT, plan.heldout_fraction), (VAL, plan.val_fraction)):
        if part in wanted and fraction:
            later = part == HELDOUT and VAL in wanted and plan.val_fraction > 0 and len(left) > 2
            chosen = _fill(left[: max(0, len(left) - 1 - later)], sizes, max(1, round(fraction * count)), kept)
            parts[list(chosen)] = part
            left = [unit for unit in left if unit not in chosen]
            count = sizes[left].sum()
    return np.asarray(parts[places], np.int64)


def _fill(ranked: list[int], sizes: Ints, count: int, kept: Flags) -> set[int]:
    """As many of the first units as fit into a number of images; the smallest where none does."""
    chosen = set()
    for unit in ranked:
        if sizes[unit] <= count:
            chosen.add(unit)
            count -= int(sizes[unit])
    return chosen or set(sorted(ranked, key=lambda unit: (not kept[unit], sizes[unit]))[:1])


def _reasons(images: Images, parts: Ints, plan: Plan) -> list[str | None]:
    """Why each image is left out, None where it is not."""
    counts = ~images.dropped
    people = _units([images.same, images.person]) if plan.task == ATTRIBUTES else images.person
    person, photograph = (_least(codes, parts, counts) for codes in (people, images.cluster))
    where, of = ("trained on", "validated on"), ("training", "validation")
    dropped = images.index["audit reason"] if images.dropped.any() else None
    rejected = images.index["filter reason"]
    reasons: list[str | None] = [None] * len(parts)
    for row in np.flatnonzero(images.dropped | images.rejected | (parts > person) | (parts > photograph)).tolist():
        part = int(parts[row])
        if images.dropped[row] and dropped is not None:
            reasons[row] = f"audit: {dropped[row]}"
        elif part > person[row]:
            given = "test" if part == HELDOUT else "val"
            reasons[row] = f"given as {given}, but the person is {where[person[row]]}"
        elif part > photograph[row]:
            reasons[row] = f"near-duplicate of a {of[photograph[row]]} image"
        elif images.rejected[row] and PARTS[part] in plan.leaves:
            reasons[row] = f"filter: {rejected[row]}"
    return reasons
