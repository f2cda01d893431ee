"""Audit: what is wrong with the data, before anything is trained on them."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubeface import __version__
from kubeface.audit.collect import Faces, Vault, collect
from kubeface.audit.drift import FEATURES, drift, histogram, read_previous
from kubeface.audit.duplicates import find_duplicates
from kubeface.audit.embedder import Embedder, no_embedding, sface
from kubeface.audit.findings import REASONS, Findings, class_figures, counted, figures, verdicts, write_findings
from kubeface.audit.labels import alike_people, judge_people, same_people
from kubeface.audit.leaks import Leak, find_leaks, read_evaluation, split_sources
from kubeface.audit.page import render
from kubeface.audit.settings import Settings
from kubeface.faces.templates import WHOLE
from kubeface.records.tasks import ATTRIBUTES, RECOGNITION
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from kubeface.storage.folders import new_file, write_json
from kubeface.tables.table import Table, TableWriter

WRITTEN_AT_ONCE = 1024  # rows of the result that are Python objects at a time


def audit(
    aligned: Path,
    filtered: Path,
    out: Path,
    html: Path,
    evaluation_sets: str = "",
    previous: str = "",
    on_leak: str = "drop",
    suspects: str = "keep",
    duplicates: str = "group",
    max_drift: float = 0.0,
    on_drift: str = "warn",
    champion: str = "",
    duplicate_bits: int = 3,
    duplicate_cosine: float = 0.7,
    same_cosine: float = 0.97,
    far_below: float = 0.25,
    alike_above: float = 0.65,
    leak_above: float = 0.6,
    image_above: float = 0.55,
    seed: int = 0,
    task: str = "recognition",
) -> dict[str, Any]:
    """Looks for duplicates, wrong labels, people of the evaluation sets, and drift; and reports on the data.

    No image is copied: the result is a table of image_id, identity, kept, reason, cluster (images of one photograph,
    which belong on one side of every division) and person (identities that look like one, which do too). Beside it
    stand duplicates.csv, suspects.csv, pairs.csv, leaks.csv and data.json, figures for a later run to compare.
    All embeddings are SFace's, whatever backbone is fine-tuned. A photograph under two names is always left out, for
    nobody can say which name is right; but for attributes, where names only say what belongs together. Of whole
    photographs (template whole_224) duplicates are found by bytes and hashes alone, and nobody is looked for. When the
    step stops because of leaks or drift, everything is written before.

    Args:
        aligned: Aligned table.
        filtered: Filter table.
        out: Folder to write the audit table to.
        html: File to write the page to.
        evaluation_sets: Sources of evaluation sets, with commas or spaces between them; folders, s3:// prefixes, tars
            or zips with a folder for each person; empty for none.
        previous: data.json of an earlier audit, as path or URI, that drift is measured against; empty, or not there,
            for a first run.
        on_leak: What becomes of people who are in an evaluation set; drop, fail (stop the run) or warn (keep them).
        suspects: What becomes of images unlike the rest of their identity, and of the smaller of two identities that
            look like one person; keep or drop.
        duplicates: What becomes of several images of one photograph; group (keep them on one side) or drop (all but the
            one with the largest face).
        max_drift: Largest drift of a feature (population stability index, below 0.1 none, to 0.25 moderate, above
            large; of the embedding one less the cosine of the means); 0 for no limit.
        on_drift: What happens above max_drift; warn, stop, or retrain (below it, training is not worth while).
        champion: URI of the promoted model, where another training is not worth while on the very images that it was
            trained on; empty not to ask.
        duplicate_bits: Most bits, 0 to 3, in which perceptual hashes of one photograph differ.
        duplicate_cosine: Least cosine of the embeddings of such images.
        same_cosine: Cosine from which on images of an identity are one photograph whatever their hashes.
        far_below: Cosine with the mean of the identity's other images below which an image is suspect.
        alike_above: Cosine of two identities' means from which on they look like one person.
        leak_above: Cosine of the means from which on an identity is somebody of an evaluation set.
        image_above: Cosine that the most similar images of two people must have, too, for either.
        seed: Seed of the choice of samples that the page shows.
        task: recognition, attributes or classes.

    Returns:
        rows_in, rows_out (kept), rejected, identities, identities_out, duplicate_clusters, duplicates,
        same_photo_two_names, suspects, alike_pairs, leaks, max_drift_found, and train: false where on_drift is retrain
        and the data have not drifted since the earlier run (there is one, and it can be compared), and where
        the data are the champion's own.

    Raises:
        KubefaceError: wrong settings, evaluation sets for whole photographs, tables that do not belong together, a
            source that cannot be read; leaks or drift where they are to stop the run.
    """
    settings = Settings(
        evaluation_sets, previous, on_leak, suspects, duplicates, max_drift, on_drift, duplicate_bits, duplicate_cosine,
        same_cosine, far_below, alike_above, leak_above, image_above, seed, task,
    )  # fmt: skip
    table, judged = Table(aligned, "aligned"), Table(filtered, "filter")
    require(table.rows > 0, f"{aligned} holds no image: run align again")
    earlier = read_previous(previous) if previous else None
    unchanged = trained_on(champion) == table.sha256
    whole = table.manifest["settings"].get("template") == WHOLE
    require(
        not (whole and evaluation_sets),
        "evaluation_sets are looked through for faces, and whole photographs have none: leave evaluation_sets empty",
    )
    embed = no_embedding if whole else sface()
    with Vault() as vault:
        faces = collect(table, judged, embed, vault)
        found = _find(faces, settings, embed, whole)
        reasons = verdicts(faces, found, settings)
        features = {name: histogram(FEATURES[name], values) for name, values in _features(faces, whole).items()}
        mean = found.people.mean[: 0 if whole else None]
        drifted = drift(features, mean, earlier, max_drift)
        numbers: dict[str, Any] = figures(faces, found, reasons)
        data = {
            "producer": f"audit {__version__}",
            "settings": _told(settings, table, judged, earlier),
            "counts": numbers | {"reasons": counted(reasons), "filter_reasons": _filter_reasons(faces)},
            "classes": class_figures(faces),
            "features": features,
            "embedding_mean": [round(float(value), 4) + 0.0 for value in mean],
            "drift": drifted,
            "unchanged": unchanged,
        }
        _write(out, faces, found, reasons, data)
        with new_file(html) as file:
            file.write_text(render(faces, found, reasons, data, seed), "utf-8", "surrogateescape")
    _stop(settings, faces, found.leaks, drifted)
    train = not unchanged and (on_drift != "retrain" or drifted["exceeded"] or drifted["worst"] is None)
    return numbers | {"max_drift_found": max(drifted["features"].values(), default=0.0), "train": train}


def trained_on(champion: str) -> str:
    """SHA-256 of the aligned table that a promoted model was trained on; empty where there is no such model.

    Args:
        champion: URI of the model's folder; empty for none.

    Raises:
        KubefaceError: its model.json cannot be read.
    """
    if not champion:
        return ""
    uri = objects.join(champion, "model.json")
    try:
        return str(json.loads(objects.read_bytes(uri))["training"]["aligned"])
    except (ValueError, KeyError, TypeError):
        raise KubefaceError(f"{uri} does not say what the model was trained on: leave only_if_changed out") from None


def _find(faces: Faces, settings: Settings, embed: Embedder, whole: bool) -> Findings:
    """All that is looked for."""
    limits = settings.limits(whole)
    same = find_duplicates(faces, limits)
    if settings.task == ATTRIBUTES:
        same = replace(same, two_names=np.zeros_like(same.two_names))
    people, suspects = judge_people(faces, same.cluster, settings.far_below)
    if whole:
        return Findings(same, people, [], same_people(people, []), [])
    alike = same_people(people, alike_people(faces, people, settings.alike_above, settings.image_above, suspects))
    leaks = []
    for uri in split_sources(settings.evaluation_sets):
        evaluation = read_evaluation(uri, embed)
        leaks += find_leaks(faces, people, evaluation, settings.leak_above, settings.image_above, limits)
    return Findings(same, people, suspects, alike, leaks)


def _features(faces: Faces, whole: bool) -> dict[str, NDArray[Any]]:
    """What is measured of the images, by name; finite values only. Of whole photographs nothing is said of faces."""
    values: dict[str, NDArray[Any]] = {
        "images_per_identity": np.bincount(faces.people, minlength=len(faces.names)),
        "face_size": faces.face,
        "image_size": faces.side,
        "det_score": faces.det_score,
        "brightness": faces.brightness[faces.readable],
    }
    values |= {name: faces.judged[name] for name in ("score", "sharpness", "turn", "agreement")}
    if whole:
        values = {name: values[name] for name in ("images_per_identity", "image_size", "brightness", "sharpness")}
    return {name: column[np.isfinite(column)] for name, column in values.items()}


def _told(settings: Settings, table: Table, judged: Table, earlier: dict[str, Any] | None) -> dict[str, Any]:
    """The settings for manifest and data.json: the earlier run by its content, since its address may change."""
    seen = hashlib.sha256(repr(earlier).encode("utf-8", "surrogateescape")).hexdigest() if earlier else ""
    told = {"aligned": table.sha256, "filtered": judged.sha256} | asdict(replace(settings, previous=seen))
    return {name: value for name, value in told.items() if (name, value) != ("task", RECOGNITION)}


def _filter_reasons(faces: Faces) -> dict[str, int]:
    """Images that the filter rejects, by reason."""
    counts = faces.filter_reason.filter(~faces.filter_kept).value_counts().to_pylist()
    return {str(entry["values"]): entry["counts"] for entry in sorted(counts, key=lambda entry: str(entry["values"]))}


def _write(out: Path, faces: Faces, found: Findings, reasons: NDArray[np.int8], data: dict[str, Any]) -> None:
    """Writes the audit table, the tables of findings and data.json."""
    cluster, person = found.duplicates.cluster, found.alike.person
    with TableWriter(out, "audit", data["producer"], data["settings"]) as table:
        for start in range(0, len(faces), WRITTEN_AT_ONCE):
            rows = range(start, min(start + WRITTEN_AT_ONCE, len(faces)))
            for row, image_id in zip(rows, faces.ids[rows.start : rows.stop].to_pylist(), strict=True):
                reason = None if reasons[row] < 0 else REASONS[reasons[row]]
                table.add(
                    {
                        "image_id": image_id,
                        "identity": faces.name_of(row),
                        "kept": reason is None,
                        "reason": reason,
                        "cluster": image_id if cluster[row] == row else faces.id_of(cluster[row]),
                        "person": faces.names[person[faces.people[row]]],
                    }
                )
                if reason:
                    table.reject(faces.source_of(row), reason, f"identity {faces.name_of(row)}")
        write_findings(table.folder, faces, found, reasons)
        write_json(table.folder / "data.json", data)


def _stop(settings: Settings, faces: Faces, leaks: list[Leak], drifted: dict[str, Any]) -> None:
    """Stops the run where it is to be stopped."""
    leaked = list(dict.fromkeys(faces.names[leak.identity] for leak in leaks))
    require(
        settings.on_leak != "fail" or not leaked,
        f"{len(leaked)} people of the training data are in an evaluation set ({', '.join(leaked[:3])}"
        f"{', …' if len(leaked) > 3 else ''}): take them out, or set on_leak to drop; leaks.csv lists them",
    )
    worst = drifted["worst"]
    require(
        settings.on_drift != "stop" or not drifted["exceeded"],
        f"{worst} drifted by {drifted['features'].get(worst)} since the previous run, max_drift is "
        f"{settings.max_drift:g}: look at the data, or raise max_drift",
    )
