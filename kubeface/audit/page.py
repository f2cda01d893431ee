"""The audit's page: what the template is given, and its rendering."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from kubeface.audit.charts import bars
from kubeface.audit.collect import Faces, read_images
from kubeface.audit.duplicates import repeated
from kubeface.audit.findings import REASONS, Findings
from kubeface.audit.leaks import Leak, evaluation_crop
from kubeface.faces.images import RGB, decode_rgb
from kubeface.runtime.keyed_rng import keyed_rng

SHOWN = 24  # findings of a kind that are shown
OF_CLUSTER = 6  # images of a cluster that are shown
SAMPLES = 8  # images shown for each reason
JPEG_QUALITY = 85  # of the pictures, so that a page with hundreds stays small
PICTURE = 112  # pixels
WORDS = {
    "unreadable": "the crop cannot be decoded",
    "leak": "the person is in an evaluation set",
    "same_photo_two_names": "the same photograph stands under several names",
    "looks_like_another": "the identity looks like another one, which has more images",
    "far_from_identity": "unlike the other images of the identity",
    "duplicate": "another image of the same photograph is kept",
}


@dataclass
class _Shown:
    """Clusters of a kind: how many, and of the first ones the rows that are shown."""

    count: int = 0
    first: list[list[int]] = field(default_factory=list)

    def add(self, group: NDArray[np.int64]) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.first.append(group[:OF_CLUSTER].tolist())


@dataclass(frozen=True)
class Card:
    """A picture with what stands below it; `picture` is empty where there is none."""

    picture: str
    title: str
    text: str = ""


def render(faces: Faces, found: Findings, reasons: NDArray[np.int8], data: dict[str, Any], seed: int) -> str:
    """The page as HTML, with everything it shows inside it; it asks the network for nothing.

    Args:
        faces: what was audited.
        found: what was found.
        reasons: why each image is left out, as a place in REASONS; −1 where it is kept.
        data: the figures of data.json.
        seed: of the choice of samples.
    """
    two_names, plain = _Shown(), _Shown()
    for group in repeated(faces, found.duplicates.cluster):
        (two_names if found.duplicates.two_names[group[0]] else plain).add(group)
    samples = _samples(faces, reasons, seed)
    shown = [*two_names.first, *plain.first]
    wanted = {row for group in shown for row in group}
    wanted |= {row for suspect in found.suspects[:SHOWN] for row in (suspect.row, suspect.central)}
    wanted |= {int(found.people.central[suspect.like]) for suspect in found.suspects[:SHOWN] if suspect.like >= 0}
    wanted |= {row for pair in found.alike.pairs[:SHOWN] for row in pair.rows}
    wanted |= {leak.row for leak in found.leaks[:SHOWN]} | {row for _, _, rows in samples for row in rows}
    pictures = {row: thumbnail(image) for row, image in read_images(faces.table, sorted(wanted - {-1})).items()}

    def card(row: int, text: str = "") -> Card:
        return Card(pictures[row], faces.name_of(row), text)

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        data=data,
        whole=not data["embedding_mean"],
        words=WORDS,
        most=SHOWN,
        charts=[bars(name, entry) for name, entry in data["features"].items()],
        two_names=[[card(row, faces.source_of(row)) for row in group] for group in two_names.first],
        clusters=[[card(row, faces.source_of(row)) for row in group] for group in plain.first],
        cluster_counts={"two_names": two_names.count, "plain": plain.count},
        suspects=[
            {
                "cards": [
                    card(suspect.row, faces.source_of(suspect.row)),
                    card(suspect.central, "central image of the identity"),
                    *(
                        [card(int(found.people.central[suspect.like]), f"near, cosine {suspect.like_cosine:.2f}")]
                        if suspect.like >= 0
                        else []
                    ),
                ],
                "cosine": suspect.cosine,
            }
            for suspect in found.suspects[:SHOWN]
        ],
        alike=[
            {
                "cards": [card(row, f"{found.people.counts[faces.people[row]]} images") for row in pair.rows],
                "cosine": pair.cosine,
                "best": pair.best,
                "person": faces.names[found.alike.person[pair.left]],
            }
            for pair in found.alike.pairs[:SHOWN]
        ],
        leaks=[
            {"cards": [card(leak.row, faces.source_of(leak.row)), theirs], "leak": leak}
            for leak, theirs in zip(found.leaks[:SHOWN], _theirs(found.leaks[:SHOWN]), strict=True)
        ],
        samples=[
            {"by": by, "reason": reason, "cards": [card(row, faces.source_of(row)) for row in rows]}
            for by, reason, rows in samples
        ],
    )


def _samples(faces: Faces, reasons: NDArray[np.int8], seed: int) -> list[tuple[str, str, list[int]]]:
    """A few images for each reason of the audit and of the filter: step, reason, rows."""
    found = []
    for place, name in enumerate(REASONS):
        found.append(("audit", name, np.flatnonzero(reasons == place)))
    rejected = np.flatnonzero(~faces.filter_kept)
    why = faces.filter_reason.take(rejected).to_pylist()
    for name in sorted({str(reason) for reason in why}):
        found.append(("filter", name, rejected[[str(reason) == name for reason in why]]))
    samples = []
    for by, name, rows in found:
        if len(rows):
            chosen = keyed_rng(seed, "samples", by, name).choice(rows, min(SAMPLES, len(rows)), replace=False)
            samples.append((by, name, sorted(chosen.tolist())))
    return samples


def _theirs(leaks: Sequence[Leak]) -> list[Card]:
    """The evaluation sets' pictures of leaks, in their order."""
    crops: dict[tuple[str, str], RGB] = {}
    for uri in _distinct(leak.uri for leak in leaks):
        for name, crop in evaluation_crop(uri, [leak.file for leak in leaks if leak.uri == uri]).items():
            crops[uri, name] = crop
    return [
        Card(_jpeg(crops[leak.uri, leak.file]) if (leak.uri, leak.file) in crops else "", leak.name, leak.file)
        for leak in leaks
    ]


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def thumbnail(image: bytes) -> str:
    """A stored picture, saved anew as a small JPEG, as a data: URI; empty where it cannot be decoded."""
    try:
        return _jpeg(decode_rgb(image))
    except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        return ""


def _jpeg(pixels: RGB) -> str:
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    picture.thumbnail((PICTURE, PICTURE))
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
