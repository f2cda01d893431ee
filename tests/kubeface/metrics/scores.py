"""Made-up embeddings, and scores of pairs, for the tests of metrics."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kubeface.metrics.pairs import Vectors


def unit(vectors: np.ndarray) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def scattered(seed: int, people: int = 30, images: int = 4, noise: float = 1.0) -> tuple[Vectors, np.ndarray]:
    """Embeddings of people whose images scatter by `noise` around a direction of their own, in mixed order."""
    random = np.random.default_rng(seed)
    person = random.permutation(np.repeat(np.arange(people), images))
    return unit(random.normal(size=(people, 16))[person] + noise * random.normal(size=(len(person), 16))), person


def parts(embeddings: Vectors, of: int) -> Vectors:
    """Embeddings rounded so that sums over them are exact, in any order."""
    return np.asarray(np.round(embeddings * of) / of, np.float32)


@st.composite
def scored(draw: st.DrawFn, least: int = 20, most: int = 120, levels: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Scores on a coarse grid, so that many are equal, with ten genuine and ten impostor pairs at least."""
    size = draw(st.integers(least, most))
    scores = draw(arrays(np.int64, size, elements=st.integers(-levels, levels))) / levels
    same = draw(arrays(np.bool_, size))
    same[:10], same[10:20] = True, False
    return scores, same


def made(seed: int, genuine: int, impostors: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Normally distributed scores, the genuine ones higher by `gap` standard deviations, in mixed order."""
    random = np.random.default_rng(seed)
    same = random.permutation(np.repeat([True, False], [genuine, impostors]))
    return random.normal(size=len(same)) + gap * same, same


def brute_tar(scores: np.ndarray, same: np.ndarray, far: float) -> float:
    """The largest share of genuine pairs at or above a threshold that lets at most `far` of the impostors in."""
    best = 0.0
    for threshold in scores:
        if np.mean(scores[~same] >= threshold) <= far:
            best = max(best, float(np.mean(scores[same] >= threshold)))
    return best
