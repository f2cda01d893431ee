"""Evaluation sets, whose people must not be trained on: hashes and embeddings of their photographs."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import Image

from kubeface.audit.embeddings import SIZE, Embedder, Vectors, to_unit_length
from kubeface.audit.groups import Codes
from kubeface.audit.images import Hashes
from kubeface.faces.detection import make_detector
from kubeface.faces.detector import Detector
from kubeface.faces.geometry import align_crop
from kubeface.faces.images import RGB, decode_rgb
from kubeface.runtime.errors import require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.runtime.workers import in_order
from kubeface.storage.downloads import cache_folder
from kubeface.storage.published_files import SFACE
from kubeface.storage.sources import Source, open_source
from kubeface.tables.hashing import perceptual_hash

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MIN_SCORE = 0.5  # least RetinaFace score of a face; nearly all photographs of an evaluation set are known to show one
LONGEST_SIDE = 400  # pixels that photographs are shrunk to: RetinaFace mobilenet0.25 scores large faces lower


@dataclass(frozen=True)
class EvaluationSet:
    """The photographs of an evaluation set."""

    uri: str
    files: list[str]  # names of the photographs
    names: list[str]  # of the people
    people: Codes  # index into names by file
    phash: Hashes  # perceptual hash by file
    vectors: Vectors  # embedding by file, zero where no face was found

    @property
    def means(self) -> Vectors:
        """Mean embedding of each person, unit length."""
        sums = np.zeros((len(self.names), SIZE))
        np.add.at(sums, self.people, self.vectors)
        return to_unit_length(sums)


def split_sources(text: str) -> list[str]:
    """Sources out of a list with commas or spaces between them."""
    return list(dict.fromkeys(text.replace(",", " ").split()))


def read_evaluation_set(uri: str, embed: Embedder) -> EvaluationSet:
    """Embeds an evaluation set (a folder, s3:// prefix, tar or zip with a folder for each person), or takes what an
    earlier run left in the cache.

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
        phash, vectors = _read_cache(cached, len(names)) or _embed_all(source, names, embed, cached)
    require(bool(vectors.any()), f"evaluation set {uri}: no face was found in any of its {len(names)} photographs")
    folders = [PurePosixPath(name).parent.name for name in names]
    people, codes = np.unique(np.array(folders, object), return_inverse=True)
    return EvaluationSet(uri, names, people.tolist(), codes.astype(np.int32), phash, vectors.astype(np.float32))


def _is_photograph(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and len(path.parts) > 1 and not any(p.startswith(".") for p in path.parts)


def _read_cache(path: Path, count: int) -> tuple[Hashes, Vectors] | None:
    """Hashes and embeddings of an earlier run, None where there are none that can be read."""
    try:
        with np.load(path) as arrays:
            phash, vectors = arrays["phash"], arrays["vectors"]
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return (phash, vectors) if phash.shape == (count,) and vectors.shape == (count, SIZE) else None


def _embed_all(source: Source, names: list[str], embed: Embedder, cached: Path) -> tuple[Hashes, Vectors]:
    """Hashes and embeddings of the photographs; they are left in the cache, which may fail."""
    detect = make_detector("retinaface", 1)

    def look(name: str) -> tuple[int, Vectors]:
        nothing = np.zeros(SIZE, np.float32)
        photograph = _read_photograph(source, name)
        if photograph is None:
            return 0, nothing
        crop = crop_face(photograph, detect, MIN_SCORE)
        return int(perceptual_hash(Image.fromarray(photograph)), 16), nothing if crop is None else embed(crop)

    looked: list[tuple[int, Vectors]] = []
    with Progress("evaluation set", len(names)) as progress:
        for found in in_order(look, names, cpu_limit()):
            looked.append(found)
            progress.advance()
    phash, vectors = np.array([value for value, _ in looked], np.uint64), np.stack([vector for _, vector in looked])
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial = cached.with_name(f".{cached.stem}.{os.getpid()}.partial.npz")
        np.savez(partial, phash=phash, vectors=vectors)
        partial.replace(cached)
    except OSError:
        pass  # the next run embeds them again
    return phash, vectors


def _read_photograph(source: Source, name: str) -> RGB | None:
    """A photograph of a source, None where it cannot be decoded."""
    data = source.read(name)
    try:
        return decode_rgb(data)
    except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        return None


def crop_face(photograph: RGB, detect: Detector, min_score: float) -> RGB | None:
    """The aligned crop of a photograph's face; None where no face reaches the detector's score."""
    height, width = photograph.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        photograph = np.asarray(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA), np.uint8)
    faces = detect(photograph).confident(min_score)
    if not len(faces):
        return None
    return align_crop(photograph, faces.landmarks[faces.subject(photograph.shape[1], photograph.shape[0])])


def crop_faces(uri: str, names: list[str]) -> dict[str, RGB]:
    """Aligned crops of a few photographs of an evaluation set, by name, for the page."""
    detect = make_detector("retinaface", 1)
    crops = {}
    with open_source(uri) as source:
        for name in names:
            photograph = _read_photograph(source, name)
            crop = None if photograph is None else crop_face(photograph, detect, MIN_SCORE)
            if crop is not None:
                crops[name] = crop
    return crops
