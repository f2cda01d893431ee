"""Errors by group of people: is somebody refused, or taken for somebody else, more often than others?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kubeface.metrics.verification import Bools, Floats, Ints, Pairs, interval, people_weights, tells

# FNMR is told from this many genuine pairs on: without any error among them it is still only known to be under 10 %
# (rule of three, ISO/IEC 19795-1: N trials without an error bound the rate by 3 / N at 95 % confidence).
LEAST_GENUINE = 30
LEAST_PEOPLE = 2


def group_errors(
    values: Sequence[str | None],
    pairs: Pairs,
    people: Ints,
    scores: Mapping[str, Floats],
    thresholds: Mapping[str, float],
    fmr: float,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """FMR and FNMR of two models within each group, at thresholds that hold for everybody.

    A pair belongs to a group when both of its images do, as in NIST IR 8280 (FRVT part 3, demographic
    effects); impostors within a group are the harder ones. A rate is null where the pairs cannot tell it: FMR
    with fewer than three impostor pairs expected beyond the threshold (fewer than 3 / fmr), FNMR with fewer than
    LEAST_GENUINE genuine pairs, either with fewer than LEAST_PEOPLE people.

    Args:
        values: the group of each image; None where it is not known.
        pairs, people: pairs of images, and the person's number of each image.
        scores, thresholds: by model, baseline and finetuned; a score above the threshold is a match.
        fmr: the rate that the thresholds were set for.

    Returns:
        rows: per group its name, people, images, genuine and impostor (pairs), baseline and finetuned (fmr,
        fnmr), fnmr_change with _low and _high (fine-tuned − baseline, interval over the group's people);
        worst_ratio: per model the largest over the smallest fmr and fnmr of the groups (NIST IR 8429's worst
        case ratio), null where fewer than two groups tell the rate or the smallest is 0.
    """
    known: Bools = np.array([value is not None for value in values])
    names = np.array([value or "" for value in values])
    rows = []
    for name in np.unique(names[known]).tolist():
        member = known & (names == name)
        inside = np.flatnonzero(member[pairs.left] & member[pairs.right])
        within = Pairs(pairs.left[inside], pairs.right[inside], pairs.same[inside])
        matches = {model: scores[model][inside] > thresholds[model] for model in scores}
        row = {"group": name, "people": len(np.unique(people[member])), "images": int(np.sum(member))}
        rows.append(row | _errors(within, people, matches, row["people"], fmr, samples, seed, confidence))
    return {
        "rows": rows,
        "worst_ratio": {
            model: {rate: _ratio([row[model][rate] for row in rows]) for rate in ("fmr", "fnmr")} for model in scores
        },
    }


def _errors(
    pairs: Pairs,
    people: Ints,
    matches: Mapping[str, Bools],
    members: int,
    fmr: float,
    samples: int,
    seed: int,
    confidence: float,
) -> dict[str, Any]:
    """Counts of pairs and the rates of one group; `matches` by model, one a pair."""
    genuine, impostor = int(np.sum(pairs.same)), int(np.sum(~pairs.same))
    told = {
        "fmr": members >= LEAST_PEOPLE and tells(fmr, impostor),
        "fnmr": members >= LEAST_PEOPLE and genuine >= LEAST_GENUINE,
    }
    errors: dict[str, Any] = {"genuine": genuine, "impostor": impostor}
    for model, matched in matches.items():
        errors[model] = {
            "fmr": float(np.mean(matched[~pairs.same])) if told["fmr"] else None,
            "fnmr": float(np.mean(~matched[pairs.same])) if told["fnmr"] else None,
        }
    if not told["fnmr"]:
        return errors | dict.fromkeys(("fnmr_change", "fnmr_change_low", "fnmr_change_high"))
    change = matches["baseline"][pairs.same].astype(np.float64) - matches["finetuned"][pairs.same]
    draws = people_weights(pairs.of_kind(True), people, samples, seed)
    low, high = interval(np.array([weights @ change / weights.sum() for weights in draws]), confidence)
    return errors | {"fnmr_change": float(change.mean()), "fnmr_change_low": low, "fnmr_change_high": high}


def _ratio(rates: list[float | None]) -> float | None:
    """The largest of the rates that are told over the smallest."""
    told = [rate for rate in rates if rate is not None]
    return max(told) / min(told) if len(told) >= 2 and min(told) > 0 else None
