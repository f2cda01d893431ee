"""Errors by group of people: is somebody refused, or taken for somebody else, more often than others?"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.pairs import Bools, Floats, Ints, Pairs
from kubeface.metrics.verification import is_supported
from kubeface.records.recognition_figures import ErrorRates, GroupColumn, GroupErrors

# FNMR is given from this many genuine pairs on: without any error among them it is still only known to be under 10 %
# (rule of three, ISO/IEC 19795-1: N trials without an error bound the rate by 3 / N at 95 % confidence).
MIN_GENUINE = 30
MIN_PEOPLE = 2


def group_errors(
    values: Sequence[str | None],
    pairs: Pairs,
    people: Ints,
    scores: Mapping[str, Floats],
    thresholds: Mapping[str, float],
    fmr: float,
    bootstrap: Bootstrap = Bootstrap(),
) -> GroupColumn:
    """FMR and FNMR of two models within each group, at thresholds that hold for everybody.

    A pair belongs to a group when both of its images do, as in NIST IR 8280 (FRVT part 3, demographic
    effects); impostors within a group are the harder ones. A rate is None where the pairs do not support it: FMR
    with fewer than three impostor pairs expected beyond the threshold (fewer than 3 / fmr), FNMR with fewer than
    MIN_GENUINE genuine pairs, either with fewer than MIN_PEOPLE people. The worst ratio is the largest over the
    smallest rate of the groups (NIST IR 8429), None where fewer than two support it or the smallest is 0.

    Args:
        values, people: group (None where unknown) and person's number of each image.
        scores, thresholds: by model, baseline and finetuned; a score above the threshold is a match.
        fmr: the rate that the thresholds were set for.
    """
    known: Bools = np.array([value is not None for value in values])
    names = np.array([value or "" for value in values])
    rows = []
    for name in np.unique(names[known]).tolist():
        member = known & (names == name)
        inside = np.flatnonzero(member[pairs.left] & member[pairs.right])
        within = pairs.take(inside)
        matches = {model: scores[model][inside] > thresholds[model] for model in scores}
        members = len(np.unique(people[member]))
        rates = _rates(within.same, matches, members, fmr)
        change: float | None = None
        bounds: tuple[float, float] | tuple[None, None] = (None, None)
        if rates["baseline"].fnmr is not None:
            change, bounds = _change(within, people, matches, bootstrap)
        rows.append(
            GroupErrors(
                group=name,
                people=members,
                images=int(np.sum(member)),
                genuine=int(np.sum(within.same)),
                impostor=int(np.sum(~within.same)),
                **rates,
                fnmr_change=change,
                fnmr_change_low=bounds[0],
                fnmr_change_high=bounds[1],
            )
        )
    by_model = {"baseline": [row.baseline for row in rows], "finetuned": [row.finetuned for row in rows]}
    worst = {
        model: ErrorRates(fmr=_ratio(rate.fmr for rate in rates), fnmr=_ratio(rate.fnmr for rate in rates))
        for model, rates in by_model.items()
    }
    return GroupColumn(rows=rows, worst_ratio=worst)


def _rates(same: Bools, matches: Mapping[str, Bools], people: int, fmr: float) -> dict[str, ErrorRates]:
    """Error rates of one group by model; `same` and `matches` one a pair."""
    genuine, impostor = int(np.sum(same)), int(np.sum(~same))
    has_fmr = people >= MIN_PEOPLE and is_supported(fmr, impostor)
    has_fnmr = people >= MIN_PEOPLE and genuine >= MIN_GENUINE
    return {
        model: ErrorRates(
            fmr=float(np.mean(matched[~same])) if has_fmr else None,
            fnmr=float(np.mean(~matched[same])) if has_fnmr else None,
        )
        for model, matched in matches.items()
    }


def _change(
    pairs: Pairs, people: Ints, matches: Mapping[str, Bools], bootstrap: Bootstrap
) -> tuple[float, tuple[float, float]]:
    """FNMR of the fine-tuned model less that of the starting model, with its interval."""
    change = matches["baseline"][pairs.same].astype(np.float64) - matches["finetuned"][pairs.same]
    draws = bootstrap.weights(pairs.of_kind(True), people)
    return float(change.mean()), bootstrap.interval(np.array([weights @ change / weights.sum() for weights in draws]))


def _ratio(rates: Iterable[float | None]) -> float | None:
    """The largest of the known rates over the smallest."""
    known = [rate for rate in rates if rate is not None]
    return max(known) / min(known) if len(known) >= 2 and min(known) > 0 else None
