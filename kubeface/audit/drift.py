"""Histograms with fixed bins, and how far those of two runs are apart."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubeface.audit.embedder import Vectors, unit
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from kubeface.storage.downloads import fetch, split_checksum
from kubeface.storage.folders import read_json

# A bin that is empty in one run counts as this share, or a single image in the other would be infinitely far away.
LEAST_SHARE = 1e-4
QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True)
class Feature:
    """Something that is measured of every image.

    label: what it is, with its unit; cuts: where one bin ends and the next begins, which its own value belongs to; the
    first bin has no lower end and the last no upper one.
    """

    label: str
    cuts: tuple[float, ...]


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


def histogram(feature: Feature, values: NDArray[Any]) -> dict[str, Any]:
    """Counts by bin and quantiles of finite values, as JSON; quantiles are left out where there is no value."""
    values = np.asarray(values, np.float64)
    counts = np.bincount(np.searchsorted(feature.cuts, values, side="right"), minlength=len(feature.cuts) + 1)
    found = np.quantile(values, list(QUANTILES.values())) if len(values) else []
    return {
        "label": feature.label,
        "cuts": list(feature.cuts),
        "counts": counts.tolist(),
        "quantiles": {name: round(float(value), 4) for name, value in zip(QUANTILES, found, strict=False)},
    }


def stability_index(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Population stability index of two histograms with the same bins: 0 where their shares are equal.

    The sum over bins of (p − q) ln(p / q). Below 0.1 a shift is called none, up to 0.25 moderate, above large (Siddiqi,
    Credit Risk Scorecards, Wiley 2006).

    Args:
        before: counts by bin.
        after: counts by bin, as many.

    Returns:
        0 and up; symmetric. 0 where one of the two has no count at all: then there is nothing to compare.
    """
    p, q = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if not p.sum() or not q.sum():
        return 0.0
    p, q = (np.maximum(share / share.sum(), LEAST_SHARE) for share in (p, q))
    p, q = p / p.sum(), q / q.sum()
    return float(((p - q) * np.log(p / q)).sum())


def read_previous(uri: str) -> dict[str, Any] | None:
    """The data.json of an earlier run; None where there is none yet, which a line on standard error says.

    Raises:
        KubefaceError: it cannot be read or is not one.
    """
    address = split_checksum(uri)[0]
    if not address.startswith("https://") and not objects.exists(address):
        print(f"audit: {address} is not there, so there is no drift to measure", file=sys.stderr, flush=True)
        return None
    found = read_json(fetch(uri))
    require(
        isinstance(found, dict) and isinstance(found.get("features"), dict),
        f"previous is {uri}, which is not the data.json of an audit: give one, or leave previous empty",
    )
    return dict(found)


def drift(
    features: Mapping[str, Any], mean: Vectors, previous: Mapping[str, Any] | None, most: float
) -> dict[str, Any]:
    """How far this run's data are from an earlier run's, for data.json.

    Args:
        features: histograms by name.
        mean: mean embedding; none of whole photographs.
        previous: data.json of the earlier run, None where there is none.
        most: limit of a feature's value; 0 for none.

    Returns:
        compared, features (stability index by name, and for `embedding` one less the cosine of the mean embeddings),
        worst (name, or null), exceeded. Features whose bins are not the same in both runs are left out.

    Raises:
        KubefaceError: a field of the earlier data.json is not what it should be.
    """
    values: dict[str, float] = {}
    try:
        for name, now in features.items() if previous else ():
            then = previous["features"].get(name) if previous else None
            if then and then["cuts"] == now["cuts"] and len(then["counts"]) == len(now["counts"]):
                counts = (np.array(entry["counts"], np.float64) for entry in (then, now))
                values[name] = round(stability_index(*counts), 4)
        if previous and len(mean) and len(previous["embedding_mean"]) == len(mean):
            old = unit(np.array(previous["embedding_mean"], np.float64))
            if np.any(mean) or np.any(old):  # not where both are all low images without sharp ones
                values["embedding"] = round(max(0.0, 1 - float(old @ unit(np.asarray(mean, np.float64)))), 4)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KubefaceError(
            f"previous: the data.json lacks a field or has a wrong one ({type(error).__name__}: {error}); give "
            "the file that an audit wrote"
        ) from None
    worst = max(values, key=lambda name: values[name], default=None)
    return {
        "compared": previous is not None,
        "features": values,
        "worst": worst,
        "exceeded": worst is not None and 0 < most < values[worst],
    }
