"""The label of an image: its identity and what else its folder, its name or a listing tells."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from kubeface.ingest.listing import IDENTITY, SPLIT, SPLITS, Listing
from kubeface.runtime.errors import require
from kubeface.runtime.packed_lists import parts
from kubeface.tables.resolution_pairs import HIGH, LOW, RESOLUTION

# Folders of the same faces in low and in high resolution, in data sets for super-resolution.
RESOLUTIONS = {"vlr_images": LOW, "hr_images": HIGH}


@dataclass(frozen=True)
class Label:
    """The label of an image."""

    identity: str  # the person or class
    # Folder of the identity's images, empty where the folder does not name it: one identity in two may be two people.
    folder: str = ""
    given_split: str | None = None  # train, val or test where the source is divided
    groups: dict[str, str] = field(default_factory=dict)  # further values by name: camera, age, resolution …

    def __str__(self) -> str:
        """The text that goes into a shard's fingerprint; another text would make every shard look changed."""
        return (
            f"Label(identity={self.identity!r}, place={self.folder!r}, given_split={self.given_split!r}, "
            f"groups={self.groups!r})"
        )


# The label of a file by its name below the source; None where nothing names the identity.
Naming = Callable[[str], Label | None]


def by_folder(name: str) -> Label | None:
    """Labels a file with its folder's name; `train`, `val`, `test`, `vlr_images` and `hr_images` may lie above."""
    folders = parts(name)[:-1]
    if not folders:
        return None
    identity = folders.pop()
    split, groups, above = _wrappers(folders)
    return Label(identity, "/".join([*above, identity]), split, groups)


def by_pattern(pattern: str) -> Naming:
    """Labels files by a regular expression, searched in the file's name, or in its path if it contains a slash.

    Its group `identity`, or else its first group, is the identity: `^(\\d{3})_` finds 007 in
    `007_01_01_010_00_crop_128.png`. Group `split` is train, val or test; other named groups are kept as groups. Folders
    of a division and of resolutions may lie above in either order, and where there are resolutions further folders may
    lie below them.

    Raises:
        KubefaceError: on use, a split that is none of the three.
    """
    regex = re.compile(pattern)

    def label_of(name: str) -> Label | None:
        *folders, file = parts(name) or [""]
        match = regex.search(name if "/" in pattern else file)
        values = {} if match is None else {key: value for key, value in match.groupdict().items() if value}
        identity = match and (values.pop("identity", None) or match.group(1))
        if not identity:
            return None
        split, groups, _ = _wrappers(_from_wrappers(folders))
        split = values.pop("split", split)
        require(
            split in (None, *SPLITS), f"identity_pattern finds split '{split}' in {name}: it must be train, val or test"
        )
        return Label(identity, "", split, groups | values)

    return label_of


def by_listing(listing: Listing, others: Naming) -> Naming:
    """Labels files by a listing, whose columns but identity and split become groups; the resolution by their folders.

    Without a column identity `others`, by folder or pattern, names the person, or else the image's own name.
    """

    def label_of(name: str) -> Label | None:
        listed = listing.of(name)
        if listed is None:
            return None
        label = None if listing.names_people else others(name)
        label = label or Label(listed.pop(IDENTITY, name), groups=_wrappers(_from_wrappers(parts(name)[:-1]))[1])
        split = listed.pop(SPLIT, label.given_split)
        return Label(label.identity, label.folder, split, label.groups | listed)

    return label_of


def _from_wrappers(folders: list[str]) -> list[str]:
    """Cuts the folders below the last wrapper where one of the wrappers is a resolution: the name has the identity."""
    if not any(folder in RESOLUTIONS for folder in folders):
        return folders
    wrappers = [index for index, folder in enumerate(folders) if folder in (*SPLITS, *RESOLUTIONS)]
    return folders[: wrappers[-1] + 1]


def _wrappers(folders: list[str]) -> tuple[str | None, dict[str, str], list[str]]:
    """The split and the groups of the innermost wrapper folders, and the folders above them."""
    split, groups = None, {}
    while folders and folders[-1] in (*SPLITS, *RESOLUTIONS):
        folder = folders.pop()
        if folder in SPLITS:
            split = folder
        else:
            groups[RESOLUTION] = RESOLUTIONS[folder]
    return split, groups, folders
