"""What a source holds, by name: who is in which file, who is to be forgotten, and which shard each file belongs to."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kubeface.ingest.listing import SUFFIXES, Listing
from kubeface.ingest.naming import Label, Naming, by_folder, by_listing, by_pattern
from kubeface.ingest.options import IngestOptions
from kubeface.runtime.errors import require
from kubeface.runtime.keyed_rng import stored_name
from kubeface.runtime.packed_lists import FileList, StoredFile, parts
from kubeface.storage.downloads import split_checksum
from kubeface.storage.sources import Source, open_source
from kubeface.tables.erasure import name_digest
from kubeface.tables.labels import PERSON
from kubeface.tables.resolution_pairs import HIGH, LOW, RESOLUTION


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a source; a person's images are in one of them.

    Written as `<number>/<count>`; then perhaps the fingerprint that it was seen with and, after commas, the marks of
    the people and images in it that are to be forgotten. Whatever decides on a shard's content stands in its text, and
    nothing that does not: equal text, equal work.
    """

    number: int = 0
    count: int = 1
    fingerprint: str = ""
    forget: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Raises KubefaceError where the text is no shard."""
        place, _, seen = text.partition(" ")
        number, slash, count = place.partition("/")
        require(
            bool(slash) and number.isdecimal() and count.isdecimal() and int(number) < int(count),
            f"shard is '{text}': write <number>/<count>, the first being 0/<count>",
        )
        fingerprint, *marks = seen.split(",")
        return cls(int(number), int(count), fingerprint, frozenset(marks))

    def __str__(self) -> str:
        return f"{self.number}/{self.count} {','.join([self.fingerprint, *sorted(self.forget)])}".strip()

    def holds(self, key: str) -> bool:
        """Whether the images of the person (or the file that names nobody) are in this shard."""
        return shard_number(key, self.count) == self.number


def shard_number(key: str, count: int) -> int:
    """The shard of a person: a hash of the name, so that others who come or go move nobody."""
    digest = hashlib.sha256(f"shard\0{key}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count


@dataclass
class Catalogue:
    """The files of a source that are to be read.

    Args:
        source: where they are read from.
        naming: who is in a file; None where nothing says it.
        files: those to read, in the order of their names.
        missing: names that the listing has and the source has not.
        forgotten: the mark, in the list of those to forget, of each file that is left out, by the file's name.
    """

    source: Source
    naming: Naming
    files: FileList
    missing: list[str] = field(default_factory=list)
    forgotten: dict[str, str] = field(default_factory=dict)

    def key(self, name: str) -> str:
        """What decides on a file's shard: the person, or the name where nothing says who it is."""
        label = self.naming(name)
        return label.identity if label else name

    def stored_names(self) -> Iterator[str]:
        """What each file to read is ranked by in the table, in the order of the files."""
        for name in self.files.names():
            label = self.naming(name)
            found = label and label.groups.get(RESOLUTION)
            yield stored_name(name, label.identity, found if found in (LOW, HIGH) else None) if label else name

    def part(self, shard: Shard) -> "Catalogue":
        """What belongs to one shard."""
        if shard.count == 1:
            return self
        return Catalogue(
            self.source,
            self.naming,
            self.files.where(lambda file: shard.holds(self.key(file.name))),
            [name for name in self.missing if shard.holds(self.key(name))],
            {name: mark for name, mark in self.forgotten.items() if shard.holds(self.key(name))},
        )

    def shards(self, count: int) -> list[Shard]:
        """The shards that hold something, each with its fingerprint and the marks that leave a file of it out."""
        digests = [hashlib.sha256() for _ in range(count)]
        marks: dict[int, set[str]] = {}
        used = set()
        for file in self.files:
            number = shard_number(self.key(file.name), count)
            digests[number].update(self._line(file))
            used.add(number)
        for name in self.missing:
            digests[shard_number(self.key(name), count)].update(f"missing\0{name}\n".encode("utf-8", "surrogateescape"))
        for name, mark in self.forgotten.items():
            marks.setdefault(shard_number(self.key(name), count), set()).add(mark)
        return [
            Shard(number, count, digests[number].hexdigest(), frozenset(marks.get(number, ())))
            for number in sorted(used)
        ]

    def _line(self, file: StoredFile) -> bytes:
        return f"{file.name}\0{file.size}\0{file.version}\0{self.naming(file.name)}\n".encode(
            "utf-8", "surrogateescape"
        )


@contextmanager
def open_catalogue(source: str, options: IngestOptions, forget: frozenset[str]) -> Iterator[Catalogue]:
    """Opens a source and looks at its names, without reading an image.

    Args:
        source: folder, s3:// prefix, archive, or a listing of images that lie beside it.
        options: listing and identity_pattern are used.
        forget: marks of people and images to leave out, as read_erasure_list gives them.

    Raises:
        KubefaceError: a source that is not there, cannot be reached or holds no image, or a listing or pattern that
            cannot be used.
    """
    source, listing = _apart(source, options.listing)
    naming: Naming = by_pattern(options.identity_pattern) if options.identity_pattern else by_folder
    with open_source(source) as opened:
        files, missing = opened.files.where(lambda file: not _hidden(file.name)), list[str]()
        if listing:
            listed = Listing(listing)
            require(
                not (listed.names_people and options.identity_pattern),
                "listing and identity_pattern both name people: give one of them",
            )
            missing = listed.match(opened.files)
            naming = by_listing(listed, naming)
            files = opened.files.where(lambda file: file.name in listed)
            require(bool(files), f"{source} holds none of the images that {listing} lists")
        require(bool(files), f"{source} holds no image: check the folder or prefix")
        forgotten = dict[str, str]()
        if forget:
            forgotten = {
                name: mark for name in [*files.names(), *missing] if (mark := _mark(name, naming(name), forget))
            }
            files = files.where(lambda file: file.name not in forgotten)
            missing = [name for name in missing if name not in forgotten]
            require(bool(files), f"every image of {source} is to be forgotten: nothing is left to train on")
        yield Catalogue(opened, naming, files, missing, forgotten)


def _mark(name: str, label: Label | None, forget: frozenset[str]) -> str:
    """The mark that a file is to be forgotten by, empty where it is not."""
    names = ([label.identity, label.groups.get(PERSON, "")] if label else []) + [name]
    return next((mark for mark in map(name_digest, names) if mark in forget), "")


def _apart(source: str, listing: str) -> tuple[str, str]:
    """Source and listing, where the source is a listing of what lies beside it."""
    if listing or not split_checksum(source)[0].lower().endswith(SUFFIXES):
        return source, listing
    folder, slash, _ = split_checksum(source)[0].rpartition("/")
    return (folder if slash else ".") or "/", source


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in parts(name))
