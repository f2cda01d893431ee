"""What a fine-tuned model is for: comparing two photographs, embedding many, finding a person among many."""

import csv
import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kubeface.models.onnx_model import read_model_record
from kubeface.models.recogniser import Face, LeftOut, Recogniser, Vector, open_recogniser, similarity
from kubeface.records.record import Record, StepResult
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.runtime.workers import in_order
from kubeface.storage import objects
from kubeface.storage.downloads import fetch
from kubeface.storage.folders import new_file
from kubeface.storage.sources import Source, open_source
from kubeface.tables.table import Rejection

ROW_GROUP_ROWS = 256
_NAMES = ("identity", "source")
UNKNOWN = "unknown"  # the verdict of a search where nobody is alike enough
WORDS = {  # of LeftOut.reason
    "unreadable": "cannot be read as a photograph",
    "no_face": "shows no face",
    "low_confidence": "shows no face that the detector is sure of",
}


class DetectedFace(Record):
    """The face that counts of a photograph."""

    faces: int
    """Faces that the detector is sure of."""
    det_score: float
    """The detector's score of the one that counts, 0 to 1."""


class Comparison(Record):
    """How alike the faces of two photographs are."""

    same: bool
    """Whether the similarity lies above the threshold."""
    similarity: float
    """Cosine of the embeddings, −1 to 1."""
    threshold: float
    """Similarity above which two faces are taken for one person's."""
    threshold_low: float | None = None
    """Lower bound of the calibrated threshold; None where another one is given."""
    threshold_high: float | None = None
    """Upper bound of it."""
    fmr: float | None = None
    """False match rate at the calibrated threshold; None where another one is given."""
    confidence: float | None
    """Probability that it is one person, both cases equally likely beforehand; None without calibration."""
    left: DetectedFace
    """The left photograph's face."""
    right: DetectedFace
    """The right photograph's face."""


def compare_faces(recogniser: Recogniser, left: Face, right: Face, threshold: float | None) -> Comparison:
    """Says whether two faces are one person's.

    Raises:
        KubefaceError: no threshold is given and the model has none for these settings.
    """
    limit, found = recogniser.threshold(threshold), similarity(left.embedding, right.embedding)
    calibration = recogniser.calibration_in_force
    bounds = calibration if threshold is None else None
    return Comparison(
        same=found > limit,
        similarity=found,
        threshold=limit,
        threshold_low=bounds.threshold_low if bounds else None,
        threshold_high=bounds.threshold_high if bounds else None,
        fmr=bounds.fmr if bounds else None,
        confidence=calibration.confidence(found) if calibration else None,
        left=DetectedFace(faces=left.faces, det_score=left.score),
        right=DetectedFace(faces=right.faces, det_score=right.score),
    )


def compare(left: str, right: str, /, model: str, threshold: float | None = None, flip: bool = False) -> Comparison:
    """Says whether two photographs show the same person.

    Args:
        left: A photograph, as path or s3:// address.
        right: Another photograph.
        model: Model folder of finetune or promoted version, as path or s3:// address.
        threshold: Similarity (cosine, -1 to 1) above which it is the same person; without it the one that was
            calibrated for the model.
        flip: Add the embeddings of the mirrored faces.

    Raises:
        KubefaceError: the model or a photograph cannot be read, one shows no face, or there is no threshold.
    """
    recogniser = open_recogniser(model, flip)
    recogniser.threshold(threshold)  # what is wrong with it is said before the work
    found = compare_faces(recogniser, _only_face(recogniser, left), _only_face(recogniser, right), threshold)
    origin, calibration = "given", recogniser.calibration_in_force
    if calibration and threshold is None:
        origin = f"95 % {calibration.threshold_low:.3f} to {calibration.threshold_high:.3f}, " \
                 f"false match rate {100 * calibration.fmr:g} %"  # fmt: skip
        if calibration.degradation != "none":
            origin += f" on crops under {calibration.degradation}"
    print(f"similarity {found.similarity:.3f}, threshold {found.threshold:.3f} ({origin})")
    verdict = "the same person" if found.same else "not the same person"
    if found.confidence is not None:
        verdict += f"; one person has a probability of {_chance(found.confidence)}, both cases taken as equally likely"
    print(verdict, flush=True)
    return found


def _chance(probability: float) -> str:
    """A probability in words; no calibration is so good as to tell 99.95 % from certainty."""
    if 0.001 <= probability <= 0.999:
        return f"{100 * probability:.1f} %"
    return "more than 99.9 %" if probability > 0.5 else "less than 0.1 %"


class EmbedResult(StepResult):
    """Images in, embeddings out."""

    identities: int
    """Folders with an embedding."""
    rejected: dict[str, int]
    """Photographs without one by reason."""


def embed(folder: str, /, model: str, out: Path, flip: bool = False) -> EmbedResult:
    """Embeds every photograph of a folder into a Parquet file, one row an image.

    Rows are in the order of names: source (the name below the folder), identity (the folder that it lies in, empty
    where it lies in none), embedding, det_score, box, landmarks and faces. The weights, template, detector and flip
    setting that made it stand in the file's metadata. Photographs without a sure face, and those that cannot be read,
    are listed with the reason in `<out>.rejected.csv`.

    Args:
        folder: Photographs: a folder, s3:// prefix, or a .tar, .tgz or .zip.
        model: Model folder of finetune or promoted version, as path or s3:// address.
        out: Parquet file to write; must not exist.
        flip: Add the embeddings of the mirrored faces; compare and identify must then do so too.

    Raises:
        KubefaceError: the model or the folder cannot be read, `out` exists, or no image shows a face.
    """
    require(not str(out).startswith("s3:"), f"{out}: embeddings are written to a local file, copy it afterwards")
    require(not out.exists(), f"{out} exists already: remove it or choose another file")
    recogniser = open_recogniser(model, flip)
    listed = out.with_name(f"{out.name}.rejected.csv")
    rejected: Counter[str] = Counter()

    def work(name: str) -> tuple[str, Face | LeftOut]:
        data = read_photograph(folder, source, name)
        return name, data if isinstance(data, LeftOut) else recogniser.face(data)

    with (
        open_source(folder) as source,
        Progress("embed", len(source.files)) as progress,
        new_file(out) as rows_file,
        new_file(listed) as list_file,
    ):
        with (
            _Rows(rows_file, read_model_record(model).embedding_size, recogniser.marks) as rows,
            open(list_file, "w", encoding="utf-8", errors="surrogateescape") as text,
        ):
            reasons = csv.writer(text, lineterminator="\n")
            reasons.writerow(Rejection._fields)
            for name, face in in_order(work, source.files.names(), cpu_limit()):
                if isinstance(face, LeftOut):
                    rejected[face.reason] += 1
                    reasons.writerow((name, face.reason, " ".join(face.detail.split())))
                else:
                    rows.add(name, face)
                progress.advance()
        if not rows.count:
            list_file.replace(listed)
            raise KubefaceError(
                f"{folder}: none of {len(source.files)} files shows a sure face, {listed} says why of each"
            )
    if rejected:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(rejected.items()))
        print(f"embed: {rejected.total()} left out ({counts}), see {listed}", file=sys.stderr, flush=True)
    return EmbedResult(
        rows_in=len(source.files),
        rows_out=rows.count,
        identities=len(rows.identities),
        rejected=dict(sorted(rejected.items())),
    )


class Candidate(Record):
    """A person of a gallery."""

    identity: str
    """Name of the person; of an image that lies in no folder the file's."""
    similarity: float
    """Cosine of the most similar of their images, −1 to 1."""
    source: str
    """That image, below the folder that was embedded."""


class Identification(DetectedFace):
    """Who of a gallery a photograph shows."""

    known: bool
    """Whether somebody is more similar than the threshold."""
    verdict: str
    """The person, or unknown."""
    threshold: float
    """Similarity up to which the verdict is unknown."""
    people: list[Candidate]
    """The most similar people, best first."""
    images: int
    """Images of the gallery."""
    stranger_matches: float | None
    """Chance that somebody who is not in the gallery is taken for somebody who is, were the comparisons independent:
    1 − (1 − FMR)^images (ISO/IEC 19795-1); None where the threshold is given."""


def identify(
    photo: str, /, gallery: str, model: str, top: int = 5, threshold: float | None = None, flip: bool = False
) -> Identification:
    """Finds who of a gallery a photograph shows.

    A person's similarity is that of the most similar of their images; an image that lies in no folder is a person of
    its own, called as the file.

    Args:
        photo: A photograph, as path or s3:// address.
        gallery: Parquet file of embed, as path or s3:// address; made with the same model and flip setting.
        model: Model folder of finetune or promoted version, as path or s3:// address.
        top: Number of people to list.
        threshold: Similarity (cosine, -1 to 1) up to which the verdict is unknown; without it the one that was
            calibrated for comparing two photographs. A search needs a stricter one: with N images enrolled a stranger
            has N chances to match.
        flip: Add the embeddings of the mirrored faces.

    Raises:
        KubefaceError: something cannot be read, the gallery was made otherwise, the photograph shows no face, or there
            is no threshold.
    """
    require(top >= 1, f"top is {top}: it must be at least 1")
    recogniser = open_recogniser(model, flip)
    limit = recogniser.threshold(threshold)
    with _open_gallery(gallery, recogniser.marks) as file:
        face = _only_face(recogniser, photo)
        people = _nearest(file, face.embedding, top)
        images = file.metadata.num_rows
    known = people[0].similarity > limit
    verdict = people[0].identity if known else UNKNOWN
    fmr = recogniser.calibration.fmr if recogniser.calibration and threshold is None else None
    chance = None if fmr is None else -math.expm1(images * math.log1p(-fmr))
    for person in people:
        print(f"{person.similarity:.3f}  {person.identity}  ({person.source})")
    stranger = f"; a stranger would match one of {images} images by chance in "
    risk = "" if chance is None else f"{stranger}{100 * chance:.2g} %"
    print(f"{verdict}, threshold {limit:.3f}{risk}", flush=True)
    return Identification(
        known=known,
        verdict=verdict,
        threshold=limit,
        people=people,
        images=images,
        stranger_matches=chance,
        faces=face.faces,
        det_score=face.score,
    )


def _only_face(recogniser: Recogniser, photograph: str) -> Face:
    """The face of a photograph by its path or address; tells where there are others."""
    face = recogniser.face(objects.read_bytes(photograph))
    if isinstance(face, LeftOut):
        raise KubefaceError(f"{photograph} {WORDS[face.reason]} ({face.detail}): give another photograph")
    if face.faces > 1:
        print(f"{photograph} shows {face.faces} faces: the largest near the middle counts")
    return face


def read_photograph(folder: str, source: Source, name: str) -> bytes | LeftOut:
    """The bytes of a file of a source that was opened by the address `folder`, or why it cannot be read.

    Raises:
        KubefaceError: the store is away, which is not the photograph's fault.
    """
    if name.encode("utf-8", "replace").decode() != name:
        return LeftOut("unreadable", "the name is not UTF-8: rename the file or folder")
    try:
        return source.read(name)
    except KubefaceError as error:
        if objects.is_s3(folder):
            raise
        return LeftOut("unreadable", str(error))


class _Rows:
    """Writes embeddings (of `size` numbers) a row group at a time."""

    def __init__(self, path: Path, size: int, marks: dict[str, str]) -> None:
        self.count = 0
        self.identities: set[str] = set()
        fields = [
            pa.field("source", pa.string(), nullable=False),
            pa.field("identity", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), size), nullable=False),
            pa.field("det_score", pa.float32(), nullable=False),
            pa.field("box", pa.list_(pa.float32(), 4), nullable=False),  # x1, y1, x2, y2 in pixels of the photograph
            pa.field("landmarks", pa.list_(pa.float32(), 10), nullable=False),  # x, y of eyes, nose and mouth corners
            pa.field("faces", pa.int32(), nullable=False),  # that the detector is sure of
        ]
        self._schema = pa.schema(fields, marks)
        self._parquet = pq.ParquetWriter(path, self._schema, compression="ZSTD", write_page_checksum=True)
        self._buffer: list[dict[str, Any]] = []

    def __enter__(self) -> "_Rows":
        return self

    def __exit__(self, *ended: object) -> None:
        self._flush()
        self._parquet.close()

    def add(self, source: str, face: Face) -> None:
        """Appends a row."""
        identity = PurePosixPath(source).parent.name
        self.count += 1
        self.identities.add(identity)
        found = {"embedding": face.embedding, "det_score": face.score, "box": face.box, "faces": face.faces}
        self._buffer.append({"source": source, "identity": identity, "landmarks": face.landmarks.ravel(), **found})
        if len(self._buffer) == ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._parquet.write_table(pa.Table.from_pylist(self._buffer, self._schema))
            self._buffer.clear()


@contextmanager
def _open_gallery(uri: str, marks: dict[str, str]) -> Iterator[pq.ParquetFile]:
    """A file of embed for reading.

    Raises:
        KubefaceError: it is none, or its marks are not those of the model; whatever pyarrow stumbles over inside the
            block is its fault.
    """
    try:
        # Read ahead, the whole file would come into memory.
        with pq.ParquetFile(fetch(uri), pre_buffer=False, page_checksum_verification=True) as file:
            told = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
            require(
                marks.keys() <= told.keys() and file.metadata.num_rows > 0,
                f"{uri} is no gallery: make one with `python -m kubeface embed`",
            )
            for key, value in marks.items():
                require(
                    told[key] == value,
                    f"{uri} was made with {key} {told[key]}, this model has {value}: their embeddings cannot be "
                    f"compared, {'set --flip alike' if key == 'flip' else 'embed the gallery with this model'}",
                )
            yield file
    except (OSError, pa.ArrowException) as error:
        raise KubefaceError(f"{uri} cannot be read as a gallery ({error}): embed it again") from error


def _nearest(gallery: pq.ParquetFile, probe: Vector, top: int) -> list[Candidate]:
    """The `top` people of a gallery with the most similar images, best first; of equal ones the first by name.

    Only so many people are kept at a time: whoever is dropped has that many before them for good, or comes back with
    a better image.
    """
    best: dict[str, tuple[float, str]] = {}
    for batch in gallery.iter_batches(ROW_GROUP_ROWS, columns=[*_NAMES, "embedding"]):
        vectors = batch["embedding"].flatten().to_numpy().reshape(len(batch), -1)
        scores = np.clip(vectors.astype(np.float64) @ probe.astype(np.float64), -1, 1).tolist()
        for found, identity, source in zip(scores, *(batch[name].to_pylist() for name in _NAMES), strict=True):
            person = identity or source
            if person not in best or found > best[person][0]:
                best[person] = found, source
        best = dict(sorted(best.items(), key=lambda entry: (-entry[1][0], entry[0]))[:top])
    return [Candidate(identity=name, similarity=found, source=source) for name, (found, source) in best.items()]
