"""Histograms with fixed bins, and how far those of two runs are apart."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubeface.audit.embeddings import Vectors, to_unit_length
from kubeface.records.findings import Distributions, Drift, Histogram
from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from kubeface.storage.downloads import fetch, split_checksum
from kubeface.storage.folders import read_json

# An empty bin counts as this share, or a single image in it in the other run would be an infinite drift.
LEAST_SHARE = 1e-4
QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True)
class Feature:
    """Something that is measured of every image."""

    label: str  # what it is, with its unit
    cuts: tuple[float, ...]  # ascending limits of the bins, see Histogram


_SCORES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FEATURES = {
    "images_per_identity": Feature("images of an identity", (2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000)),
    "face_size": Feature(
        "face in the photograph, shorter side, pixels", (20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 1000)
    ),
    "image_size": Feature("photograph, shorter side, pixels", (64, 112, 160, 224, 320, 480, 720, 1080, 2160)),
    "det_score": Feature("score of the aligner's detector, 0 to 1", _SCORES),
    "score": Feature("score of RetinaFace, 0 to 1", _SCORES),
    "sharpness": Feature(
        "sharpness, variance of the Laplacian", (10, 20, 50, 100, 200, 350, 500, 750, 1000, 1500, 2500, 5000)
    ),
    "turn": Feature("turn of the head, 0 to 1", _TENTHS),
    "agreement": Feature("agreement of the two detectors, overlap 0 to 1", _TENTHS),
    "brightness": Feature("brightness of the crop, mean grey level 0 to 255", tuple(range(20, 241, 20))),
}


def make_histogram(feature: Feature, values: NDArray[Any]) -> Histogram:
    """Counts by bin and quantiles of finite values."""
    values = np.asarray(values, np.float64)
    counts = np.bincount(np.searchsorted(feature.cuts, values, side="right"), minlength=len(feature.cuts) + 1)
    quantiles = np.quantile(values, list(QUANTILES.values())) if len(values) else []
    return Histogram(
        label=feature.label,
        cuts=list(feature.cuts),
        counts=counts.tolist(),
        quantiles={name: round(float(value), 4) for name, value in zip(QUANTILES, quantiles, strict=False)},
    )


def stability_index(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Population stability index of two histograms with the same bins: 0 where their shares are equal.

    The sum over bins of (p − q) ln(p / q). Below 0.1 a shift is called none, up to 0.25 moderate, above large (Siddiqi,
    Credit Risk Scorecards, Wiley 2006).

    Args:
        before, after: counts by bin, equally many.

    Returns:
        0 and up; symmetric. 0 where one of the two has no count at all, since then there is nothing to compare.
    """
    p, q = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if not p.sum() or not q.sum():
        return 0.0
    p, q = (np.maximum(share / share.sum(), LEAST_SHARE) for share in (p, q))
    p, q = p / p.sum(), q / q.sum()
    return float(((p - q) * np.log(p / q)).sum())


def read_previous(uri: str) -> Distributions | None:
    """The distributions of an earlier run out of its data.json, which may hold the record of gather too.

    None where there is none yet, which a line on standard error says.

    Raises:
        KubefaceError: the file cannot be read or is not one.
    """
    address = split_checksum(uri)[0]
    if not address.startswith("https://") and not objects.exists(address):
        print(f"audit: {address} is not there, so there is no drift to measure", file=sys.stderr, flush=True)
        return None
    value = read_json(fetch(uri))
    if isinstance(value, dict):
        value = {name: value[name] for name in Distributions.model_fields if name in value}
    try:
        return Distributions.parse(value, address)
    except KubefaceError as error:
        raise KubefaceError(f"previous: {error}; give the data.json of an audit, or leave previous empty") from None


def measure_drift(
    features: Mapping[str, Histogram], mean: Vectors, previous: Distributions | None, limit: float
) -> Drift:
    """How far this run's data are from an earlier run's, if there is one; features with other bins are left out.

    Args:
        mean: mean embedding; empty for whole photographs.
        limit: largest drift of a feature; 0 for none.
    """
    values: dict[str, float] = {}
    if previous:
        for name, now in features.items():
            then = previous.features.get(name)
            if then and then.cuts == now.cuts and len(then.counts) == len(now.counts):
                values[name] = round(stability_index(np.array(then.counts), np.array(now.counts)), 4)
        if len(mean) and len(previous.embedding_mean) == len(mean):
            old = to_unit_length(np.array(previous.embedding_mean, np.float64))
            if np.any(mean) or np.any(old):  # both are zero where all images are low ones without sharp partners
                cosine = float(old @ to_unit_length(np.asarray(mean, np.float64)))
                values["embedding"] = round(max(0.0, 1 - cosine), 4)
    worst = max(values, key=lambda name: values[name], default=None)
    exceeded = worst is not None and 0 < limit < values[worst]
    return Drift(compared=previous is not None, features=values, worst=worst, exceeded=exceeded)
