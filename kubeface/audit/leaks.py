"""People of the training data who are in an evaluation set too, whatever they are called there.

Measured on the 200 people of CelebA at hand, 20 images each, against LFW's 5,749: two of them are in LFW, with a cosine
of the means of 0.79 and 0.73. The other 1.15 million pairs lie below 0.58; the first of them, looked at, are
look-alikes, and 23 of the people have one above 0.5. The cosine of a photograph of LFW with the mean of its person's
others, five at least, is above 0.59 in 99 %. So `leak_above` stands at 0.6.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from kubeface.audit.collect import Codes, Faces, Hashes
from kubeface.audit.duplicates import MOST_BITS, REACH, Limits, block_keys
from kubeface.audit.embedder import SIZE, Embedder, Vectors, unit
from kubeface.audit.groups import equal_neighbours, rounded
from kubeface.audit.labels import People, close
from kubeface.audit.photographs import LONGEST_SIDE, face_crop
from kubeface.faces.detection import make_detector
from kubeface.faces.images import RGB, decode_rgb
from kubeface.runtime.errors import require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.storage.downloads import cache_folder
from kubeface.storage.published_files import SFACE
from kubeface.storage.sources import Source, open_source
from kubeface.tables.hashing import perceptual_hash

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MIN_SCORE = 0.5  # least RetinaFace score of a face; nearly all photographs of an evaluation set are known to show one
BATCH = 256  # photographs that are read ahead


@dataclass(frozen=True)
class Evaluation:
    """An evaluation set: files with the index of their person, names of the people, hashes and embeddings.

    An embedding is zero where no face was found; centres are the people's means at unit length.
    """

    uri: str
    files: list[str]
    names: list[str]
    people: Codes
    phash: Hashes
    vectors: Vectors

    @property
    def centres(self) -> Vectors:
        """Mean embedding of each person, unit length."""
        sums = np.zeros((len(self.names), SIZE))
        np.add.at(sums, self.people, self.vectors)
        return unit(sums)


@dataclass(frozen=True)
class Leak:
    """An identity that is in an evaluation set.

    identity: index; uri, name: of the set and of the person there; cosine: of the two means; row, file: the most
    similar images, or the same photograph; best: their cosine; same_photograph: whether they are one photograph.
    """

    identity: int
    uri: str
    name: str
    cosine: float
    row: int
    file: str
    best: float
    same_photograph: bool


def split_sources(text: str) -> list[str]:
    """Sources out of a list with commas or spaces between them."""
    return list(dict.fromkeys(text.replace(",", " ").split()))


def read_evaluation(uri: str, embed: Embedder) -> Evaluation:
    """Embeds an evaluation set, or takes what an earlier run left in the cache.

    Args:
        uri: folder, s3:// prefix, tar or zip with a folder for each person.
        embed: crop to embedding.

    Raises:
        KubefaceError: the source cannot be read, or holds no photograph in a folder, or none with a face.
    """
    with open_source(uri) as source:
        files = [file for file in source.files if _is_photograph(file.name)]
        require(bool(files), f"evaluation set {uri} holds no photographs: give a folder for each person")
        digest = hashlib.sha256(f"1 {SFACE.sha256} {LONGEST_SIDE} {MIN_SCORE}\n".encode())
        for file in files:
            digest.update(f"{file.name}\0{file.size}\0{file.version}\n".encode("utf-8", "surrogateescape"))
        cached = cache_folder() / "evaluation-sets" / f"{digest.hexdigest()}.npz"
        names = [file.name for file in files]
        phash, vectors = _cached(cached, len(names)) or _embedded(uri, source, names, embed, cached)
    require(bool(vectors.any()), f"evaluation set {uri}: no face was found in any of its {len(names)} photographs")
    people = [PurePosixPath(name).parent.name for name in names]
    found, codes = np.unique(np.array(people, object), return_inverse=True)
    return Evaluation(uri, names, found.tolist(), codes.astype(np.int32), phash, vectors.astype(np.float32))


def _is_photograph(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and len(path.parts) > 1 and not any(p.startswith(".") for p in path.parts)


def _cached(path: Path, count: int) -> tuple[Hashes, Vectors] | None:
    """What an earlier run found, None where there is nothing that can be read."""
    try:
        with np.load(path) as found:
            phash, vectors = found["phash"], found["vectors"]
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return (phash, vectors) if phash.shape == (count,) and vectors.shape == (count, SIZE) else None


def _embedded(
    uri: str, source: Source, names: list[str], embed: Embedder, cached: Path
) -> tuple[Hashes, Vectors]:  # fmt: skip
    """Hashes and embeddings of the photographs; they are left in the cache, which may fail."""
    detect = make_detector("retinaface", 1)

    def look(name: str) -> tuple[int, Vectors]:
        photograph = _photograph(source, name)
        if photograph is None:
            return 0, np.zeros(SIZE, np.float32)
        crop = face_crop(photograph, detect, MIN_SCORE)
        return int(perceptual_hash(Image.fromarray(photograph)), 16), np.zeros(
            SIZE, np.float32
        ) if crop is None else embed(crop)

    seen: list[tuple[int, Vectors]] = []
    with ThreadPoolExecutor(cpu_limit()) as pool, Progress("evaluation set", len(names)) as progress:
        for start in range(0, len(names), BATCH):
            seen += pool.map(look, names[start : start + BATCH])
            progress.advance(len(seen) - start)
    phash, vectors = np.array([value for value, _ in seen], np.uint64), np.stack([vector for _, vector in seen])
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial = cached.with_name(f".{cached.stem}.{os.getpid()}.partial.npz")
        np.savez(partial, phash=phash, vectors=vectors)
        partial.replace(cached)
    except OSError:
        pass  # the next run embeds them again
    return phash, vectors


def _photograph(source: Source, name: str) -> RGB | None:
    """A photograph of a source, None where it cannot be decoded."""
    data = source.read(name)
    try:
        return decode_rgb(data)
    except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        return None


def evaluation_crop(uri: str, names: list[str]) -> dict[str, RGB]:
    """Aligned crops of a few photographs of an evaluation set, for the page."""
    detect = make_detector("retinaface", 1)
    crops = {}
    with open_source(uri) as source:
        for name in names:
            photograph = _photograph(source, name)
            crop = None if photograph is None else face_crop(photograph, detect, MIN_SCORE)
            if crop is not None:
                crops[name] = crop
    return crops


def find_leaks(
    faces: Faces, people: People, evaluation: Evaluation, leak_above: float, image_above: float, limits: Limits
) -> list[Leak]:
    """Identities that are in an evaluation set, each with the person there that it is most like.

    An identity is one of its people when the means are at or above `leak_above` and a pair of images at or above
    `image_above`, or when a photograph of it is in the set. An image of low resolution stands for its sharp partner,
    and without one is nobody's photograph.
    """
    found: dict[int, Leak] = {}
    centres = evaluation.centres
    for row, place in _same_photographs(faces, evaluation, limits):
        identity = int(faces.people[row])
        cosine = round(float(people.centres[identity] @ centres[evaluation.people[place]]), 4)
        best = round(float((faces.vault.read(np.array([row]))[0] * evaluation.vectors[place]).sum()), 4)
        leak = _leak(evaluation, identity, int(faces.sharp[row]), place, cosine, best, True)
        if identity not in found or best > found[identity].best:
            found[identity] = leak
    for left, right, cosine in close(people.centres, centres, leak_above):
        if left in found and (found[left].same_photograph or found[left].cosine >= cosine):
            continue
        rows, places = (
            np.unique(faces.sharp[faces.rows_of(left)]).astype(np.int64),
            np.flatnonzero(evaluation.people == right),
        )
        cosines = rounded(faces.vault.read(rows) @ evaluation.vectors[places].T)
        a, b = np.unravel_index(int(cosines.argmax()), cosines.shape)
        if cosines[a, b] >= image_above:
            found[left] = _leak(evaluation, left, int(rows[a]), int(places[b]), cosine, float(cosines[a, b]), False)
    return sorted(found.values(), key=lambda leak: (-leak.cosine, leak.identity))


def _same_photographs(faces: Faces, evaluation: Evaluation, limits: Limits) -> Iterator[tuple[int, int]]:
    """Rows and places in the evaluation set that show the same photograph by hash and embedding."""
    ours, theirs = np.flatnonzero(faces.recognisable), np.flatnonzero(evaluation.vectors.any(1))
    both = np.concatenate([evaluation.phash[theirs], faces.phash[ours]])
    for key in block_keys(both):
        for left, right in equal_neighbours(key, REACH):
            apart = (left < len(theirs)) & (right >= len(theirs))  # equal keys keep their order
            places, rows = theirs[left[apart]], ours[right[apart] - len(theirs)]
            few = np.bitwise_count(evaluation.phash[places] ^ faces.phash[rows]) <= min(limits.bits, MOST_BITS)
            places, rows = places[few], rows[few]
            cosines = np.einsum("nd,nd->n", evaluation.vectors[places], faces.vault.read(rows))
            same = rounded(cosines) >= limits.cosine
            yield from zip(rows[same].tolist(), places[same].tolist(), strict=True)


def _leak(
    evaluation: Evaluation, identity: int, row: int, place: int, cosine: float, best: float, same: bool
) -> Leak:  # fmt: skip
    name = evaluation.names[evaluation.people[place]]
    return Leak(identity, evaluation.uri, name, cosine, row, evaluation.files[place], best, same)
