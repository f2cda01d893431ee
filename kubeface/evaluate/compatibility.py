"""Can a gallery enrolled with the old model be matched with embeddings of the new one, or must it be enrolled anew?"""

import numpy as np

from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.pairs import Floats, Ints, Pairs, Vectors
from kubeface.records.recognition_figures import Compatibility

# A gallery can stay where its matches fall by at most this share, and false ones rise to at most so many times the rate
# that the threshold was calibrated for: less cannot be told from chance on a few people.
GALLERY_LOSS, FALSE_MATCHES = 0.01, 2


def compatibility(
    old: Vectors,
    new: Vectors,
    pairs: Pairs,
    people: Ints,
    thresholds: tuple[float, float],
    fmr: float,
    old_name: str,
    bootstrap: Bootstrap = Bootstrap(),
) -> Compatibility:
    """Shares of pairs that match when one side was embedded by the old model and the other by the new one.

    Backward compatibility as in Shen et al., "Towards backward-compatible representation learning" (CVPR 2020). Every
    pair is taken both ways. A score above the threshold is a match; mixed pairs are decided at the old model's
    threshold, which a system with an old gallery uses. The gallery can stay if by its lower bound the share of matches
    falls by at most GALLERY_LOSS, and at most FALSE_MATCHES times as many impostors match as was calibrated for.

    Args:
        old, new: embeddings of the same images by both models, images × D of unit length; D may differ.
        pairs, people: the pairs, both kinds, and the person's number of each image.
        thresholds, fmr: calibrated thresholds of the old and the new model, and the rate that they hold for.
    """
    genuine, impostors = pairs.of_kind(True), pairs.of_kind(False)
    threshold_old, threshold_new = thresholds
    same_model = Compatibility(
        old=old_name,
        comparable=old.shape[1] == new.shape[1],
        threshold=threshold_old,
        old_with_old=float(np.mean(genuine.scores(old) > threshold_old)),
        new_with_new=float(np.mean(genuine.scores(new) > threshold_new)),
        genuine_pairs=len(genuine),
        people=len(np.unique(people[np.concatenate([genuine.left, genuine.right])])),
        stays=False,
    )
    if not same_model.comparable:
        reason = f"the old model's embeddings have {old.shape[1]} dimensions, the new one's {new.shape[1]}"
        return same_model.model_copy(update={"reason": reason})
    matched = _mixed_matches(old, new, genuine, threshold_old)
    changed = matched - (genuine.scores(old) > threshold_old)
    both = np.stack([matched, changed])
    draws = np.array([both @ weights / weights.sum() for weights in bootstrap.weights(genuine, people)])
    share_low, share_high = bootstrap.interval(draws[:, 0])
    change_low, change_high = bootstrap.interval(draws[:, 1])
    false_matches = float(_mixed_matches(old, new, impostors, threshold_old).mean())
    return same_model.model_copy(
        update={
            "old_gallery_new_probe": float(matched.mean()),
            "old_gallery_new_probe_low": share_low,
            "old_gallery_new_probe_high": share_high,
            "match_change": float(changed.mean()),
            "match_change_low": change_low,
            "match_change_high": change_high,
            "false_matches": false_matches,
            "gallery_still_matched": _gallery_still_matched(old, new, people, threshold_old),
            "stays": change_low >= -GALLERY_LOSS and false_matches <= FALSE_MATCHES * fmr,
        }
    )


def _mixed_matches(old: Vectors, new: Vectors, pairs: Pairs, threshold: float) -> Floats:
    """Of each pair the share (0, ½ or 1) of its two ways round that match."""
    ways = [way.scores(old, new) > threshold for way in (pairs, pairs.swapped())]
    return np.asarray(np.mean(ways, axis=0), np.float64)


def _gallery_still_matched(old: Vectors, new: Vectors, people: Ints, threshold: float) -> float | None:
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
