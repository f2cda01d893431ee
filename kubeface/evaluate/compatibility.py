"""Can a gallery enrolled with the old model be matched with embeddings of the new one, or must it be enrolled anew?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubeface.metrics.verification import Floats, Ints, Pairs, interval, people_weights

# A gallery can stay where its matches fall by at most this share, and false ones rise to at most so many times the rate
# that the threshold was calibrated for: less cannot be told from chance on a few people.
GALLERY_LOSS, FALSE_MATCHES = 0.01, 2
CHANGE = ("match_change", "match_change_low", "match_change_high")


def compatibility(
    old: NDArray[np.float32],
    new: NDArray[np.float32],
    pairs: Pairs,
    people: Ints,
    threshold_old: float,
    threshold_new: float,
    fmr: float,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Shares of pairs that match when one side was embedded by the old model and the other by the new one.

    Backward compatibility as in Shen et al., "Towards backward-compatible representation learning" (CVPR 2020). Every
    pair is taken both ways: either image can be the enrolled one. A score above the threshold is a match; mixed
    pairs are decided at the old model's threshold, which a system with an old gallery uses.

    Args:
        old, new: embeddings of the same images by both models, images × D of unit length; D may differ.
        pairs, people: the pairs, both kinds, and the person's number of each image.
        threshold_old, threshold_new: calibrated thresholds of the two models.
        fmr: the rate that they were calibrated for.

    Returns:
        comparable (false where the dimensions differ) and reason (null where comparable); threshold (the old
        model's); old_with_old, new_with_new (each at its own threshold) and old_gallery_new_probe with _low and
        _high (interval over people): shares of the genuine pairs that match; false_matches: share of the
        impostor pairs that match mixed; genuine_pairs, people (in them); gallery_still_matched: share of the
        people with several images whose first image (old) matches the middle one of their others (new; median
        score); match_change with _low and _high: old_gallery_new_probe − old_with_old, paired; stays: whether the
        gallery can stay: by its lower bound match_change is at most GALLERY_LOSS under 0, and no more than
        FALSE_MATCHES times as many impostors match as are meant to. What needs mixed pairs is null where they are not
        comparable.
    """
    genuine, impostors = pairs.of_kind(True), pairs.of_kind(False)
    comparable = old.shape[1] == new.shape[1]
    found: dict[str, Any] = {
        "comparable": comparable,
        "reason": None,
        "threshold": threshold_old,
        "old_with_old": float(np.mean(genuine.scores(old) > threshold_old)),
        "new_with_new": float(np.mean(genuine.scores(new) > threshold_new)),
        "genuine_pairs": len(genuine),
        "people": len(np.unique(people[np.concatenate([genuine.left, genuine.right])])),
    }
    mixed = ("old_gallery_new_probe", "old_gallery_new_probe_low", "old_gallery_new_probe_high")
    if not comparable:
        reason = f"the old model's embeddings have {old.shape[1]} dimensions, the new one's {new.shape[1]}"
        return (
            found
            | {"reason": reason, "stays": False}
            | dict.fromkeys((*mixed, *CHANGE, "false_matches", "gallery_still_matched"))
        )
    matched = _mixed_matches(old, new, genuine, threshold_old)
    changed = matched - (genuine.scores(old) > threshold_old)
    both = np.stack([matched, changed])
    spread = np.array([both @ weights / weights.sum() for weights in people_weights(genuine, people, samples, seed)])
    shares = (float(matched.mean()), *interval(spread[:, 0], confidence))
    change = (float(changed.mean()), *interval(spread[:, 1], confidence))
    false_matches = float(_mixed_matches(old, new, impostors, threshold_old).mean())
    return found | {
        **dict(zip(mixed, shares, strict=True)),
        **dict(zip(CHANGE, change, strict=True)),
        "false_matches": false_matches,
        "stays": change[1] >= -GALLERY_LOSS and false_matches <= FALSE_MATCHES * fmr,
        "gallery_still_matched": _gallery_still_matched(old, new, people, threshold_old),
    }


def _mixed_matches(old: NDArray[np.float32], new: NDArray[np.float32], pairs: Pairs, threshold: float) -> Floats:
    """Of each pair the share (0, ½ or 1) of its two ways round that match."""
    ways = [way.scores(old, new) > threshold for way in (pairs, pairs.turned())]
    return np.asarray(np.mean(ways, axis=0), np.float64)


def _gallery_still_matched(
    old: NDArray[np.float32], new: NDArray[np.float32], people: Ints, threshold: float
) -> float | None:
    """Share of the people with several images whose first, by the old model, matches the others by the new one."""
    _, first, person = np.unique(people, return_index=True, return_inverse=True)
    probes = np.setdiff1d(np.arange(len(people)), first)
    if not len(probes):
        return None
    probes = probes[np.argsort(person[probes], kind="stable")]
    enrolled = first[person[probes]]
    scores = Pairs(enrolled, probes, np.ones(len(probes), bool)).scores(old, new)
    each = np.split(scores, np.flatnonzero(np.diff(enrolled)) + 1)
    return float(np.mean([np.median(others) > threshold for others in each]))
