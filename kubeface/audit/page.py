"""The audit's page: figures and pictures of the findings, rendered into template.html."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kubeface.audit.charts import make_chart
from kubeface.audit.duplicates import repeated_photographs
from kubeface.audit.evaluation_sets import crop_faces
from kubeface.audit.findings import REASONS, Findings, Verdicts
from kubeface.audit.images import AuditedImages, read_pictures
from kubeface.audit.label_errors import Suspect
from kubeface.audit.leaks import Leak
from kubeface.faces.images import RGB, decode_rgb
from kubeface.records.findings import FindingsRecord
from kubeface.runtime.keyed_rng import keyed_rng
from kubeface.runtime.page_links import page_environment

SHOWN = 24  # findings of a kind that are shown
SHOWN_OF_CLUSTER = 6  # images of a cluster that are shown
SAMPLES = 8  # images shown for each reason
JPEG_QUALITY = 85  # of the pictures, so that a page with hundreds stays small
PICTURE_SIZE = 112  # pixels
MEANINGS = {
    "unreadable": "the crop cannot be decoded",
    "leak": "the person is in an evaluation set",
    "same_photo_two_names": "the same photograph stands under several names",
    "looks_like_another": "the identity looks like another one, which has more images",
    "far_from_identity": "unlike the other images of the identity",
    "duplicate": "another image of the same photograph is kept",
}


@dataclass(frozen=True)
class Card:
    """A picture with the text below it; `picture` is empty where there is none."""

    picture: str
    title: str
    text: str = ""


class _Cards:
    """Cards of rows whose pictures were read."""

    def __init__(self, images: AuditedImages, rows: set[int]) -> None:
        self._images = images
        pictures = read_pictures(images.table, sorted(rows))
        self._pictures = {row: thumbnail(picture) for row, picture in pictures.items()}

    def card(self, row: int, text: str | None = None) -> Card:
        """The card of a row: its identity, and below it the text, or its source where that is None."""
        return Card(
            self._pictures[row], self._images.name_of(row), self._images.source_of(row) if text is None else text
        )

    def cards(self, rows: Sequence[int]) -> list[Card]:
        """The cards of rows with their sources."""
        return [self.card(row) for row in rows]


def render_page(
    images: AuditedImages, findings: Findings, verdicts: Verdicts, record: FindingsRecord, seed: int
) -> str:
    """The page as HTML, with everything it shows inside it; it asks the network for nothing.

    `seed` is that of the choice of samples.
    """
    clusters: dict[str, list[list[int]]] = {"two_names": [], "plain": []}
    cluster_counts: Counter[str] = Counter(two_names=0, plain=0)
    for group in repeated_photographs(images, findings.duplicates.cluster):
        kind = "two_names" if findings.duplicates.two_names[group[0]] else "plain"
        cluster_counts[kind] += 1
        if cluster_counts[kind] <= SHOWN:
            clusters[kind].append(group[:SHOWN_OF_CLUSTER].tolist())
    suspects, pairs, leaks = findings.suspects[:SHOWN], findings.lookalikes.pairs[:SHOWN], findings.leaks[:SHOWN]
    samples = _samples(images, verdicts, seed)
    rows = {row for group in (*clusters["two_names"], *clusters["plain"]) for row in group}
    rows |= {row for suspect in suspects for row in _suspect_rows(suspect, findings)}
    rows |= {row for pair in pairs for row in pair.rows} | {leak.row for leak in leaks}
    rows |= {row for *_, sampled in samples for row in sampled}
    cards = _Cards(images, rows)
    counts = findings.centres.counts
    template = page_environment(Path(__file__).parent).get_template("template.html")
    return template.render(
        data=record,
        whole=not record.embedding_mean,
        meanings=MEANINGS,
        most=SHOWN,
        charts=[make_chart(name, histogram) for name, histogram in record.features.items()],
        two_names=[cards.cards(group) for group in clusters["two_names"]],
        clusters=[cards.cards(group) for group in clusters["plain"]],
        cluster_counts=cluster_counts,
        suspects=[
            {"cards": _suspect_cards(suspect, findings, cards), "cosine": suspect.cosine} for suspect in suspects
        ],
        alike=[
            {
                "cards": [cards.card(row, f"{counts[images.identity[row]]} images") for row in pair.rows],
                "cosine": pair.cosine,
                "best": pair.best,
                "person": images.names[findings.lookalikes.person[pair.left]],
            }
            for pair in pairs
        ],
        leaks=[
            {"cards": [cards.card(leak.row), other], "leak": leak}
            for leak, other in zip(leaks, _evaluation_cards(leaks), strict=True)
        ],
        samples=[{"by": step, "reason": reason, "cards": cards.cards(rows)} for step, reason, rows in samples],
    )


def _suspect_rows(suspect: Suspect, findings: Findings) -> list[int]:
    """A suspect image, its identity's central image and, where it is near another identity, that one's."""
    near = [int(findings.centres.central[suspect.near])] if suspect.near >= 0 else []
    return [suspect.row, suspect.central, *near]


def _suspect_cards(suspect: Suspect, findings: Findings, cards: _Cards) -> list[Card]:
    texts = [None, "central image of the identity", f"near, cosine {suspect.near_cosine:.2f}"]
    return [cards.card(row, text) for row, text in zip(_suspect_rows(suspect, findings), texts, strict=False)]


def _samples(images: AuditedImages, verdicts: Verdicts, seed: int) -> list[tuple[str, str, list[int]]]:
    """A few images for each reason to leave some out: the step, the reason, the rows."""
    candidates = [("audit", reason, np.flatnonzero(verdicts == index)) for index, reason in enumerate(REASONS)]
    rejected = np.flatnonzero(~images.filter_kept)
    why = [str(reason) for reason in images.filter_reason.take(rejected).to_pylist()]
    for reason in sorted(set(why)):
        candidates.append(("filter", reason, rejected[[other == reason for other in why]]))
    samples = []
    for step, reason, rows in candidates:
        if len(rows):
            chosen = keyed_rng(seed, "samples", step, reason).choice(rows, min(SAMPLES, len(rows)), replace=False)
            samples.append((step, reason, sorted(chosen.tolist())))
    return samples


def _evaluation_cards(leaks: Sequence[Leak]) -> list[Card]:
    """Cards of the evaluation sets' photographs of leaks, in their order."""
    crops: dict[tuple[str, str], RGB] = {}
    for uri in dict.fromkeys(leak.uri for leak in leaks):
        for name, crop in crop_faces(uri, [leak.file for leak in leaks if leak.uri == uri]).items():
            crops[uri, name] = crop
    return [
        Card(_jpeg(crops[leak.uri, leak.file]) if (leak.uri, leak.file) in crops else "", leak.name, leak.file)
        for leak in leaks
    ]


def thumbnail(picture: bytes) -> str:
    """A stored picture as a data: URI of a small JPEG; empty where it cannot be decoded."""
    try:
        return _jpeg(decode_rgb(picture))
    except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        return ""


def _jpeg(pixels: RGB) -> str:
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    picture.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
