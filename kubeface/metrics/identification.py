"""Identification: whose face is it, of the people enrolled (closed set), and is it one of them at all (open set)?

Terms and rates as in ISO/IEC 19795-1 and NIST's FRVT 1:N (NIST IR 8271): a probe is searched for in a gallery
that holds one image of each enrolled person.
"""

from itertools import islice

import numpy as np
from numpy.typing import NDArray

from kubeface.metrics.bootstrap import Bootstrap, people_draws
from kubeface.metrics.figures import IdentificationFigures, OpenSetFigures
from kubeface.metrics.pairs import Bools, Floats, Ints
from kubeface.metrics.verification import is_supported

DIVISIONS = 10  # of the people into enrolled and unknown, for the open set
BLOCK_SCORES = 2**21  # scores held at a time: 8 MB


def identification_rates(
    embeddings: NDArray[np.float32],
    people: Ints,
    bootstrap: Bootstrap = Bootstrap(),
    fpirs: tuple[float, ...] = (0.1, 0.01),
) -> IdentificationFigures:
    """Closed-set rank-1 and rank-5 rates, and the open set's FNIR at given FPIRs, in flat memory.

    Closed set: the first image of everybody with two or more is the gallery, the rest of their images are the
    probes; rank-k is the share of probes whose person is among the k best, a tie counting against it. Its
    interval is by resampling people. Open set: half of the people, drawn at random, are enrolled with their
    first image, and every other image of everybody is searched for. FPIR is the share of unknown people's
    probes with anybody above the threshold; FNIR the share of enrolled people's probes whose person is
    not the best candidate, or not above it. FNIR is the mean over DIVISIONS such drawings, and is given only
    where each has known probes and an FPIR that is at least three of its unknown probes.

    Args:
        embeddings: images × D, of unit length.
        people: the person's number of each image (N).
        bootstrap: how the intervals are made; its seed also draws who is enrolled.
        fpirs: false positive identification rates that FNIR is wanted at.

    Returns:
        the rates; rank-1 is None with fewer than two people in the gallery, rank-5 with fewer than five.
    """
    names, first, person, images = np.unique(people, return_index=True, return_inverse=True, return_counts=True)
    probe = np.ones(len(people), bool)
    probe[first] = False
    random = np.random.default_rng(bootstrap.seed)
    enrolled = [np.sort(random.permutation(len(names))[: len(names) // 2]) for _ in range(DIVISIONS)]
    ranks, mates, best = _search(embeddings, first, person, np.flatnonzero(images > 1), enrolled)
    first_rates, five_rates = (
        _rank_rate(ranks[probe], person[probe], bootstrap, rank, least) for rank, least in ((1, 2), (5, 5))
    )
    return IdentificationFigures(
        gallery=int(np.sum(images > 1)),
        probes=int(np.sum(probe)),
        rank1=first_rates[0],
        rank1_low=first_rates[1],
        rank1_high=first_rates[2],
        rank5=five_rates[0],
        rank5_low=five_rates[1],
        rank5_high=five_rates[2],
        open=_open_set(mates, best, person, probe, enrolled, fpirs),
    )


def _search(
    embeddings: NDArray[np.float32], first: Ints, person: Ints, gallery: Ints, enrolled: list[Ints]
) -> tuple[Ints, Floats, Floats]:
    """Every image searched for among the people's first images.

    Returns:
        rank of its own person among `gallery` (N, 1 is best); score of its own person (N); best score of
        another person among each of `enrolled` (divisions × N; −inf where there is no other).
    """
    size = len(person)
    ranks, mates, best = np.empty(size, np.int64), np.empty(size), np.full((len(enrolled), size), -np.inf)
    enrolment = embeddings[first]
    rows = max(1, BLOCK_SCORES // len(first))
    for start in range(0, size, rows):
        part = slice(start, start + rows)
        scores = embeddings[part] @ enrolment.T
        own = np.arange(len(scores)), person[part]
        mate = scores[own]
        scores[own] = -np.inf
        mates[part] = mate
        ranks[part] = 1 + np.sum(scores[:, gallery] >= mate[:, None], axis=1)
        for division, chosen in enumerate(enrolled):
            best[division, part] = scores[:, chosen].max(axis=1, initial=-np.inf)
    return ranks, mates, best


def _rank_rate(
    ranks: Ints, person: Ints, bootstrap: Bootstrap, rank: int, least: int
) -> tuple[float, float, float] | tuple[None, None, None]:
    """rank-k with its bounds, from the ranks and people of the probes; None with fewer than `least` people."""
    _, number, probes = np.unique(person, return_inverse=True, return_counts=True)
    if len(probes) < least:
        return None, None, None
    hits = np.bincount(number, ranks <= rank)
    draws = islice(people_draws(len(probes), bootstrap.seed), bootstrap.samples)
    shares = np.array([counts @ hits / (counts @ probes) for counts in draws])
    return float(np.mean(ranks <= rank)), *bootstrap.interval(shares)


def _open_set(
    mates: Floats, best: Floats, person: Ints, probe: Bools, enrolled: list[Ints], fpirs: tuple[float, ...]
) -> OpenSetFigures:
    """Sizes of the open set, and FNIR by FPIR over its divisions."""
    inside = [np.isin(person, chosen) for chosen in enrolled]
    known_probes = [int(np.sum(known & probe)) for known in inside]
    unknown_probes = [int(np.sum(~known)) for known in inside]
    rates: dict[str, float] = {}
    for fpir in fpirs:
        if not all(known_probes) or not is_supported(fpir, min(unknown_probes)):
            continue
        missed = []
        for others, known in zip(best, inside, strict=True):
            threshold = _threshold(others[~known], fpir)
            missed.append(np.mean(mates[known & probe] <= np.maximum(others[known & probe], threshold)))
        rates[f"{fpir:g}"] = float(np.mean(missed))
    return OpenSetFigures(
        enrolled=len(enrolled[0]),
        known_probes=round(float(np.mean(known_probes))),
        unknown_probes=round(float(np.mean(unknown_probes))),
        fnir_at_fpir=rates,
    )


def _threshold(scores: Floats, rate: float) -> float:
    """The score above which no more than this share of the scores lies."""
    passing = int(rate * len(scores) + 1e-9)  # 0.1 × 30 is a little less than 3
    return float(np.sort(scores)[::-1][passing]) if passing < len(scores) else -np.inf
