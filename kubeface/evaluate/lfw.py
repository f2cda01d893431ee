"""Labeled Faces in the Wild: pairs files, View 2's ten folds, and every pair scored."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from kubeface.evaluate.pair_sets import PairSet, measure_set
from kubeface.faces.degradation import Degradation
from kubeface.faces.detection import make_detector
from kubeface.faces.detector import Faces
from kubeface.faces.geometry import TEMPLATE_SIZES, TEMPLATES, centre_crop, require_template
from kubeface.faces.images import RGB, decode_rgb
from kubeface.metrics.figures import VerificationFigures
from kubeface.metrics.pairs import Ints, Pairs
from kubeface.models.embeddings import Embeddings, Model, embed_batch
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.progress import Progress
from kubeface.storage.downloads import fetch
from kubeface.storage.sources import Source, open_source

BATCH = 64
CLEAN = Degradation()


@dataclass(frozen=True)
class PairsFile:
    """Pairs of images by their index, as a benchmark lists them, with the fold (0…) of each and every image's person.

    LFW's image names are `<person>/<person>_%04d`.
    """

    images: list[str]
    pairs: Pairs
    folds: Ints
    people: Ints


def read_pairs(uri: str) -> PairsFile:
    """Reads pairs.txt (View 2: `folds<TAB>pairs of a kind`) or a View 1 file (`pairs of a kind`).

    Raises:
        KubefaceError: the file cannot be read, or a line of it is not a pair; the line is named.
    """
    lines = fetch(uri).read_bytes().decode("utf-8", "replace").splitlines()
    header = re.fullmatch(r"(?:(\d+)\s+)?(\d+)\s*", lines[0]) if lines else None
    if header is None or not int(header[1] or 1) * int(header[2]):
        raise KubefaceError(f"{uri}, line 1: '<folds> <pairs of a kind>' is expected, as LFW's pairs.txt has it")
    folds, count = int(header[1] or 1), int(header[2])
    rows = [(number, line) for number, line in enumerate(lines[1:], 2) if line.strip()]
    require(
        len(rows) == 2 * folds * count,
        f"{uri} has {len(rows)} pairs, its first line promises {folds} × 2 × {count}: the file is cut off or changed",
    )
    numbers: dict[str, int] = {}
    left, right = [], []
    for number, line in rows:
        names = _names(line.split())
        if names is None:
            raise KubefaceError(f"{uri}, line {number}: '{line.strip()}' is not a pair of LFW")
        left.append(numbers.setdefault(names[0], len(numbers)))
        right.append(numbers.setdefault(names[1], len(numbers)))
    same = np.tile(np.repeat([True, False], count), folds)
    fold = np.repeat(np.arange(folds), 2 * count)
    _, people = np.unique([name.split("/")[0] for name in numbers], return_inverse=True)
    require(
        np.array_equal(people[left] == people[right], same),
        f"{uri}: in each fold the pairs of one person must come before the pairs of two",
    )
    return PairsFile(list(numbers), Pairs(np.array(left), np.array(right), same), fold, people)


def _names(words: Sequence[str]) -> tuple[str, str] | None:
    if len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
        words = (words[0], words[1], words[0], words[2])
    if len(words) != 4 or not (words[1].isdecimal() and words[3].isdecimal()):
        return None
    return f"{words[0]}/{words[0]}_{int(words[1]):04d}", f"{words[2]}/{words[2]}_{int(words[3]):04d}"


@dataclass(frozen=True)
class Lfw:
    """What was measured on LFW: the pairs, images of which a centre crop was taken, figures of `further` by model."""

    measured: PairSet
    fallback: list[str]
    further: list[Mapping[str, VerificationFigures]]


def evaluate_lfw(
    archive: str,
    pairs_uri: str,
    detector: str,
    models: Mapping[str, Model],
    degradation: Degradation = CLEAN,
    template: str = "arcface_112",
    further: Sequence[Degradation] = (),
) -> Lfw:
    """Runs models over LFW's pairs.

    Args:
        archive: LFW's images as folder, tar or zip (…/<person>/<person>_0001.jpg).
        pairs_uri: pairs.txt of View 2, or a View 1 file.
        detector, template: how the models' crops were aligned.
        degradation: put on every aligned crop, on both sides of a pair.
        further: other degradations to measure on the same crops, instead of the first.

    Raises:
        KubefaceError: the archive or the pairs file cannot be read, or an image of a pair is not in the archive.
    """
    wanted = read_pairs(pairs_uri)
    kinds = [degradation, *further]
    collected: list[dict[str, Embeddings]] = [{name: Embeddings() for name in models} for _ in kinds]
    fallback: list[str] = []
    with Progress("lfw", len(wanted.images)) as progress:
        for names, crops, without in aligned_crops(archive, wanted.images, pairs_uri, detector, template):
            fallback += without
            for kind, into in zip(kinds, collected, strict=True):
                batch = np.stack([kind(crop, "probe", name) for crop, name in zip(crops, names, strict=True)])
                for name, model in models.items():
                    into[name].append(*embed_batch(model, batch))
            progress.advance(len(names))
    first, *others = (measure_benchmark("lfw", wanted, into) for into in collected)
    return Lfw(first, fallback, [found.figures for found in others])


def measure_benchmark(name: str, wanted: PairsFile, embeddings: Mapping[str, Embeddings]) -> PairSet:
    """Scores and figures of models on a benchmark's pairs, with the file's folds where it has several.

    Images of sets other than LFW have the set's name in front, and no person.
    """
    is_lfw = name == "lfw"
    images = wanted.images if is_lfw else [f"{name}/{image}" for image in wanted.images]
    identities = [image.partition("/")[0] if is_lfw else "" for image in images]
    folds = wanted.folds if wanted.folds.max() > 0 else None
    return measure_set(name, images, identities, wanted.people, wanted.pairs, embeddings, folds)


def lfw_pictures(archive: str, names: Sequence[str], detector: str, template: str = "arcface_112") -> dict[str, RGB]:
    """The crops of a few images of LFW as `evaluate_lfw` makes them, by name, without a degradation.

    Raises:
        KubefaceError: the archive cannot be read, or lacks one of the images.
    """
    found = aligned_crops(archive, names, "the ones asked for", detector, template)
    return {name: crop for batch, crops, _ in found for name, crop in zip(batch, crops, strict=True)}


def aligned_crops(
    archive: str, names: Sequence[str], listed: str, detector: str, template: str
) -> Iterator[tuple[Sequence[str], list[RGB], list[str]]]:
    """Names and aligned crops of LFW's images a batch at a time, and which of them have no face."""
    require_template(template)
    detect = make_detector(detector, 20)
    with open_source(archive) as source:
        files = {"/".join(PurePosixPath(file.name).with_suffix("").parts[-2:]): file.name for file in source.files}
        missing = [name for name in names if name not in files]
        require(
            not missing,
            f"{archive} lacks {len(missing)} images of {listed}, {missing[0] if missing else ''}.jpg first",
        )
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            photographs = [_photograph(source, files[name], archive) for name in batch]
            found = [detect(photograph) for photograph in photographs]
            crops = [_crop(image, faces, template) for image, faces in zip(photographs, found, strict=True)]
            yield batch, crops, [name for name, faces in zip(batch, found, strict=True) if not len(faces)]


def _photograph(source: Source, file: str, archive: str) -> RGB:
    try:
        return decode_rgb(source.read(file))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise
        raise KubefaceError(f"{archive}: {file} cannot be decoded: {error}") from error


def _crop(image: RGB, found: Faces, template: str) -> RGB:
    """The aligned crop of a photograph, or its middle where no face was found."""
    if not len(found):
        return centre_crop(image, TEMPLATE_SIZES[template])
    best = found.subject(image.shape[1], image.shape[0])
    return TEMPLATES[template](image, found.landmarks[best], found.boxes[best])
