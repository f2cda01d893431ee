"""The files of a source by name: their labels, those to be forgotten, and the shard of each."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kubeface.ingest.listing import SUFFIXES, Listing
from kubeface.ingest.naming import Label, Naming, by_folder, by_listing, by_pattern
from kubeface.ingest.options import IngestOptions
from kubeface.runtime.errors import require
from kubeface.runtime.keyed_rng import stored_name, text_digest
from kubeface.runtime.packed_lists import FileList, parts
from kubeface.storage.downloads import split_checksum
from kubeface.storage.sources import Source, open_source
from kubeface.tables.erasure import name_digest
from kubeface.tables.labels import PERSON
from kubeface.tables.resolution_pairs import HIGH, LOW, RESOLUTION


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a source; all images of a person are in the same one.

    Its text is `<number>/<count>`, where it was planned followed by a space, the fingerprint, and the digests of the
    people and images in it that are to be forgotten, separated by commas. The text holds what decides on the shard's
    content and nothing else, so that Kubeflow's cache serves an unchanged shard.
    """

    number: int = 0  # from 0
    count: int = 1  # shards of the source
    fingerprint: str = ""  # hash of the shard's files and their labels; empty where it was not planned
    erased: frozenset[str] = frozenset()  # digests of names, of `name_digest`

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads the text of a shard; KubefaceError for any other."""
        part, _, content = text.partition(" ")
        number, slash, count = part.partition("/")
        require(
            bool(slash) and number.isdecimal() and count.isdecimal() and int(number) < int(count),
            f"shard is '{text}': write <number>/<count>, the first being 0/<count>",
        )
        fingerprint, *digests = content.split(",")
        return cls(int(number), int(count), fingerprint, frozenset(digests))

    def __str__(self) -> str:
        return f"{self.number}/{self.count} {','.join([self.fingerprint, *sorted(self.erased)])}".strip()

    def holds(self, key: str) -> bool:
        """Whether the shard holds the images of a person, or a file without a label by its name."""
        return shard_number(key, self.count) == self.number


def shard_number(key: str, count: int) -> int:
    """The shard of a person, by a hash of the name: it does not change as others come and go."""
    return int.from_bytes(text_digest("shard", key)[:8], "big") % count


@dataclass
class Catalogue:
    """The files of a source that are to be read."""

    source: Source  # where they are read from
    naming: Naming  # label of a file by its name
    files: FileList  # files to read, in the order of their names
    missing: list[str] = field(default_factory=list)  # names that the listing has and the source does not
    # The digest by which each file is to be forgotten, by the file's name.
    forgotten: dict[str, str] = field(default_factory=dict)

    def key(self, name: str) -> str:
        """What a file is sharded by: its identity, or its name where it has no label."""
        label = self.naming(name)
        return label.identity if label else name

    def stored_names(self) -> Iterator[str]:
        """Yields the name by which each file's row is ranked, in the order of the files."""
        for name in self.files.names():
            label = self.naming(name)
            resolution = label.groups.get(RESOLUTION) if label else None
            yield stored_name(name, label.identity, resolution) if label and resolution in (LOW, HIGH) else name

    def part(self, shard: Shard) -> "Catalogue":
        if shard.count == 1:
            return self
        return Catalogue(
            self.source,
            self.naming,
            self.files.where(lambda file: shard.holds(self.key(file.name))),
            [name for name in self.missing if shard.holds(self.key(name))],
            {name: digest for name, digest in self.forgotten.items() if shard.holds(self.key(name))},
        )

    def shards(self, count: int) -> list[Shard]:
        """The shards that hold a file, each with its fingerprint and the digests of those forgotten in it."""
        hashes = [hashlib.sha256() for _ in range(count)]
        erased: dict[int, set[str]] = defaultdict(set)
        used = set()
        for file in self.files:
            number = shard_number(self.key(file.name), count)
            line = f"{file.name}\0{file.size}\0{file.version}\0{self.naming(file.name)}\n"
            hashes[number].update(line.encode("utf-8", "surrogateescape"))
            used.add(number)
        for name in self.missing:
            hashes[shard_number(self.key(name), count)].update(f"missing\0{name}\n".encode("utf-8", "surrogateescape"))
        for name, digest in self.forgotten.items():
            erased[shard_number(self.key(name), count)].add(digest)
        return [Shard(number, count, hashes[number].hexdigest(), frozenset(erased[number])) for number in sorted(used)]


@contextmanager
def open_catalogue(source: str, options: IngestOptions, erased: frozenset[str]) -> Iterator[Catalogue]:
    """Opens a source (see `ingest`) and lists its files, less the `erased` ones, without reading an image.

    Raises:
        KubefaceError: a source that is not there, cannot be reached or holds no image, or a listing or pattern that
            cannot be used.
    """
    source, listing = _source_and_listing(source, options.listing)
    naming: Naming = by_pattern(options.identity_pattern) if options.identity_pattern else by_folder
    with open_source(source) as opened:
        missing = list[str]()
        files = opened.files.where(
            lambda file: not any(part.startswith((".", "__MACOSX")) for part in parts(file.name))
        )
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
        if erased:
            forgotten = {
                name: digest
                for name in [*files.names(), *missing]
                if (digest := _erased_by(name, naming(name), erased))
            }
            files = files.where(lambda file: file.name not in forgotten)
            missing = [name for name in missing if name not in forgotten]
            require(bool(files), f"every image of {source} is to be forgotten: nothing is left to train on")
        yield Catalogue(opened, naming, files, missing, forgotten)


def _erased_by(name: str, label: Label | None, erased: frozenset[str]) -> str:
    """The digest by which a file is to be forgotten: of its identity, its person or its name; empty for none."""
    names = ([label.identity, label.groups.get(PERSON, "")] if label else []) + [name]
    return next((digest for digest in map(name_digest, names) if digest in erased), "")


def _source_and_listing(source: str, listing: str) -> tuple[str, str]:
    """The folder and the listing of a source that is a listing beside its images; any other as it is."""
    if listing or not split_checksum(source)[0].lower().endswith(SUFFIXES):
        return source, listing
    folder, slash, _ = split_checksum(source)[0].rpartition("/")
    return (folder if slash else ".") or "/", source
