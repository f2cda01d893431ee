"""Who is in an image: what its folder, its name or a listing says."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from kubeface.ingest.listing import IDENTITY, SPLIT, SPLITS, Listing
from kubeface.runtime.errors import require
from kubeface.runtime.packed_lists import parts
from kubeface.tables.resolution_pairs import HIGH, LOW, RESOLUTION

# Folders of the same faces in low and in high resolution, as data sets for super-resolution have them.
RESOLUTIONS = {"vlr_images": LOW, "hr_images": HIGH}


@dataclass(frozen=True)
class Label:
    """What is known of an image.

    Args:
        identity: the person.
        place: where the person's images lie; one identity in two places may be two people.
        given_split: train, val or test where the source came divided.
        groups: what else is known, by name: camera, age, resolution …
    """

    identity: str
    place: str = ""
    given_split: str | None = None
    groups: dict[str, str] = field(default_factory=dict)


# The label of a file by its name below the source; None where nothing says who it is.
Naming = Callable[[str], Label | None]


def by_folder(name: str) -> Label | None:
    """The folder that the file lies in names the person.

    `train`, `val`, `test`, `vlr_images` and `hr_images` may lie above.
    """
    folders = parts(name)[:-1]
    if not folders:
        return None
    identity = folders.pop()
    split, groups, above = _wrappers(folders)
    return Label(identity, "/".join([*above, identity]), split, groups)


def by_pattern(pattern: str) -> Naming:
    """A regular expression that is searched in the file's name, or in its path where it contains a slash.

    Its group `identity`, or else its first group, names the person: `^(\\d{3})_` finds 007 in
    `007_01_01_010_00_crop_128.png`. Group `split` gives train, val or test, other named groups are kept as groups.
    The folders of a division and of two resolutions may lie above, in either order; below them others may, too, where
    there are resolutions.

    Args:
        pattern: as in IngestOptions, which checks it.

    Raises:
        KubefaceError: on use, a split that is none of the three.
    """
    wanted = re.compile(pattern)

    def name_it(name: str) -> Label | None:
        *folders, file = parts(name) or [""]
        found = wanted.search(name if "/" in pattern else file)
        known = {} if found is None else {key: value for key, value in found.groupdict().items() if value}
        identity = found and (known.pop("identity", None) or found.group(1))
        if not identity:
            return None
        split, groups, _ = _wrappers(_from_wrappers(folders))
        split = known.pop("split", split)
        require(
            split in (None, *SPLITS), f"identity_pattern finds split '{split}' in {name}: it must be train, val or test"
        )
        return Label(identity, "", split, groups | known)

    return name_it


def by_listing(listing: Listing, others: Naming) -> Naming:
    """The listing names the person; where it names nobody, the folder or the pattern does, or else the image itself.

    Which of two resolutions an image is its folders say all the same.

    Args:
        listing: matched with the files; a column split holds train, val, test or nothing, and all others but identity
            are kept as groups.
        others: who is in a file by its name, for a listing without the column identity.
    """

    def name_it(name: str) -> Label | None:
        known = listing.of(name)
        if known is None:
            return None
        beside = None if listing.names_people else others(name)
        label = beside or Label(known.pop(IDENTITY, name), groups=_wrappers(_from_wrappers(parts(name)[:-1]))[1])
        split = known.pop(SPLIT, label.given_split)
        return Label(label.identity, label.place, split, label.groups | known)

    return name_it


def _from_wrappers(folders: list[str]) -> list[str]:
    """The folders without those below the wrappers, where a resolution is among these: the name tells the person."""
    if not any(folder in RESOLUTIONS for folder in folders):
        return folders
    known = [place for place, folder in enumerate(folders) if folder in (*SPLITS, *RESOLUTIONS)]
    return folders[: known[-1] + 1]


def _wrappers(folders: list[str]) -> tuple[str | None, dict[str, str], list[str]]:
    """Split and resolution that the innermost folders stand for, and the folders above them."""
    split, groups = None, {}
    while folders and folders[-1] in (*SPLITS, *RESOLUTIONS):
        folder = folders.pop()
        if folder in SPLITS:
            split = folder
        else:
            groups[RESOLUTION] = RESOLUTIONS[folder]
    return split, groups, folders
