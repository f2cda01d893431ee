"""Identification rates, each against its definition written out image by image."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kubeface.metrics import identification
from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.identification import DIVISIONS, identification_rates
from tests.kubeface.metrics.scores import parts, scattered, unit


def by_hand(embeddings: np.ndarray, people: np.ndarray, seed: int, fpir: float) -> dict[str, Any]:
    """Every search written out."""
    names = sorted(set(people.tolist()))
    first = {name: people.tolist().index(name) for name in names}
    scores = embeddings @ embeddings.T
    several = [name for name in names if np.sum(people == name) > 1]
    probes = [i for i, name in enumerate(people.tolist()) if i != first[name]]
    ranks = []
    for i in probes:
        own = scores[i, first[people[i]]]
        ranks.append(1 + sum(scores[i, first[name]] >= own for name in several if name != people[i]))
    random = np.random.default_rng(seed)
    rates: list[float | None] = []
    for _ in range(DIVISIONS):
        enrolled = [names[place] for place in random.permutation(len(names))[: len(names) // 2]]
        unknown = [i for i, name in enumerate(people.tolist()) if name not in enrolled]
        known = [i for i in probes if people[i] in enrolled]
        alarms = [max(scores[i, first[name]] for name in enrolled) for i in unknown]
        cuts = [t for t in [-2.0, *alarms] if sum(a > t for a in alarms) <= fpir * len(alarms) + 1e-9]
        missed = 0
        for i in known:
            own = scores[i, first[people[i]]]
            others = max([scores[i, first[name]] for name in enrolled if name != people[i]], default=-2)
            missed += not (own > others and own > min(cuts))
        rates.append(missed / len(known) if known else None)
    return {
        "probes": len(probes),
        "gallery": len(several),
        "rank1": np.mean(np.array(ranks) <= 1),
        "rank5": np.mean(np.array(ranks) <= 5),
        "fnir": None if None in rates else np.mean([rate for rate in rates if rate is not None]),
    }


@given(
    seed=st.integers(0, 2**32 - 1),
    people=st.integers(6, 14),
    images=st.integers(3, 6),
    noise=st.sampled_from([0.3, 0.8, 1.5, 4.0]),
)
@example(seed=354253, people=6, images=5, noise=0.3)  # one drawing enrols only people with one image
@settings(max_examples=30)
def test_rates_are_what_the_definitions_say(seed: int, people: int, images: int, noise: float) -> None:
    embeddings, person = scattered(seed, people, images, noise)
    embeddings = parts(embeddings, 8)  # and so ties
    person[person == 0] = np.arange(np.sum(person == 0)) + 100  # some with one image only
    found = identification_rates(embeddings, person, Bootstrap(20, seed % 100), fpirs=(0.5, 0.2))
    expected = by_hand(embeddings, person, seed % 100, 0.5)
    assert (found.gallery, found.probes) == (expected["gallery"], expected["probes"])
    assert found.rank1 == pytest.approx(expected["rank1"])
    assert found.rank5 == pytest.approx(expected["rank5"])
    assert found.open.fnir_at_fpir.get("0.5") == pytest.approx(expected["fnir"])


def test_people_far_apart_are_all_found() -> None:
    embeddings, person = scattered(0, 30, 4, noise=0.01)
    found = identification_rates(embeddings, person, bootstrap=Bootstrap(100))
    assert [getattr(found, key) for key in ("rank1", "rank1_low", "rank1_high", "rank5")] == [1.0] * 4
    assert found.gallery == 30
    assert found.probes == 90
    assert (found.open.enrolled, found.open.known_probes, found.open.unknown_probes) == (15, 45, 60)
    assert found.open.fnir_at_fpir == {"0.1": 0.0}  # 0.01 of 60 unknown probes is less than three


def test_random_embeddings_are_at_chance() -> None:
    random = np.random.default_rng(0)
    embeddings = unit(random.normal(size=(4000, 32)))
    found = identification_rates(embeddings, np.arange(4000) % 50, bootstrap=Bootstrap(200))
    assert found.rank1 == pytest.approx(1 / 50, abs=0.008)
    assert found.rank5 == pytest.approx(5 / 50, abs=0.015)
    assert found.rank1_low is not None and found.rank1 is not None and found.rank1_high is not None
    assert found.rank1_low < found.rank1 < found.rank1_high
    assert list(found.open.fnir_at_fpir) == ["0.1", "0.01"]
    assert 0.98 < found.open.fnir_at_fpir["0.1"] < found.open.fnir_at_fpir["0.01"] <= 1


def test_one_embedding_for_everybody_finds_nobody() -> None:
    """A tie counts against the model: who says the same of all must not come out best."""
    embeddings = np.full((60, 4), 0.5, np.float32)
    found = identification_rates(embeddings, np.arange(60) % 12, bootstrap=Bootstrap(100))
    assert found.rank1 == found.rank5 == 0.0
    assert found.open.fnir_at_fpir["0.1"] == 1.0


@given(seed=st.integers(0, 2**32 - 1), factor=st.sampled_from([0.25, 2.0]))
@settings(max_examples=15)
def test_order_of_people_names_and_scale_do_not_matter(seed: int, factor: float) -> None:
    embeddings, person = scattered(seed, 8, 5, noise=1.0)
    found = identification_rates(embeddings, person, bootstrap=Bootstrap(50))
    assert identification_rates(np.asarray(factor * embeddings, np.float32), person, bootstrap=Bootstrap(50)) == found
    assert identification_rates(embeddings, person * 3 + 7, bootstrap=Bootstrap(50)) == found
    order = np.argsort(person, kind="stable")  # each person's first image stays the first
    sorted_ = identification_rates(embeddings[order], person[order], bootstrap=Bootstrap(50))
    rates = found.model_dump(exclude={"open"})
    assert sorted_.model_dump(exclude={"open"}) == pytest.approx(rates)
    assert sorted_.open.fnir_at_fpir == pytest.approx(found.open.fnir_at_fpir)
    for rank in ("rank1", "rank5"):
        assert 0 <= rates[f"{rank}_low"] <= rates[rank] <= rates[f"{rank}_high"] <= 1
    assert rates["rank1"] <= rates["rank5"]


def test_the_seed_divides_the_people() -> None:
    embeddings, person = scattered(1, 20, 6, noise=1.2)
    one, again, other = (identification_rates(embeddings, person, Bootstrap(50, seed)) for seed in (1, 1, 2))
    assert one == again
    assert one.open.fnir_at_fpir != other.open.fnir_at_fpir
    assert one.rank1 == other.rank1


@pytest.mark.parametrize("images", [[3], [1, 1, 1], [1]])
def test_too_few_people_tell_no_rate(images: list[int]) -> None:
    person = np.repeat(np.arange(len(images)), images)
    found = identification_rates(scattered(0, 1, len(person), 1.0)[0], person, bootstrap=Bootstrap(10))
    assert found.rank1 is found.rank1_low is found.rank5 is None
    assert found.open.fnir_at_fpir == {}


def test_rank_five_needs_five_people() -> None:
    four, five = (identification_rates(*scattered(0, people, 3, 0.1), bootstrap=Bootstrap(10)) for people in (4, 5))
    assert four.rank1 == 1.0
    assert four.rank5 is four.rank5_low is four.rank5_high is None
    assert five.rank5 == 1.0


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, person = scattered(2, 9, 7, noise=1.0)
    embeddings = parts(embeddings, 8)
    whole = identification_rates(embeddings, person, bootstrap=Bootstrap(20))
    for scores in (1, 40, 250):
        monkeypatch.setattr(identification, "BLOCK_SCORES", scores)
        assert identification_rates(embeddings, person, bootstrap=Bootstrap(20)) == whole
