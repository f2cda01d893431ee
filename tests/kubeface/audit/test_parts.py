"""The parts of the audit: hashes, groups, search by hash, the embedding store."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kubeface.audit import label_errors
from kubeface.audit.duplicates import MOST_BITS, block_keys
from kubeface.audit.embeddings import EmbeddingStore, sface, to_unit_length
from kubeface.audit.groups import DisjointSets, equal_pairs, groups_of_equal
from kubeface.audit.label_errors import Centres, LookalikePair, group_lookalikes
from kubeface.faces.images import decode_rgb
from tests.support.audit_tables import crop_of


@given(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=MOST_BITS))
def test_hashes_within_the_limit_share_a_block_key(value: int, flipped: set[int]) -> None:
    other = value ^ sum(1 << bit for bit in flipped)
    assert any(key[0] == key[1] for key in block_keys(np.array([value, other], np.uint64)))


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_groups_are_connected_components(pairs: list[tuple[int, int]]) -> None:
    sets = DisjointSets(20)
    sets.join(pairs)
    known = [{item} for item in range(20)]
    for left, right in pairs:
        merged = known[left] | known[right]
        for item in merged:
            known[item] = merged
    assert sets.roots().tolist() == [min(group) for group in known]


@given(st.lists(st.integers(0, 6), max_size=40))
def test_equal_keys_are_connected_and_grouped(values: list[int]) -> None:
    keys = np.array(values, np.int64)
    sets = DisjointSets(len(keys))
    for left, right in equal_pairs(keys, 1):
        sets.join_rows(left, right)
    roots = sets.roots()
    assert all((roots[a] == roots[b]) == (keys[a] == keys[b]) for a, b in combinations(range(len(keys)), 2))
    expected = [np.flatnonzero(keys == key).tolist() for key in range(7) if values.count(key) > 1]
    assert [group.tolist() for group in groups_of_equal(keys)] == expected


def test_a_chain_of_lookalikes_is_one_person() -> None:
    pairs = [LookalikePair(3, 4, 0.7, (0, 0), 0.7), LookalikePair(1, 4, 0.7, (0, 0), 0.7)]
    none = np.zeros((6, 2), np.float32)
    centres = Centres(none, np.array([9, 8, 9, 5, 5, 9], np.int32), np.zeros(6, np.int64), none[0])
    found = group_lookalikes(centres, iter(pairs))
    assert found.person.tolist() == [0, 1, 2, 1, 1, 5]
    assert found.weaker.tolist() == [False, False, False, False, True, False]
    assert found.count == 2 and found.pairs == pairs[::-1]


def test_only_the_most_similar_lookalikes_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_errors, "MOST_LISTED", 2)
    none = np.zeros((6, 2), np.float32)
    centres = Centres(none, np.full(6, 9, np.int32), np.zeros(6, np.int64), none[0])
    pairs = [LookalikePair(0, other, cosine, (0, 0), 0.9) for other, cosine in enumerate((0.7, 0.9, 0.8, 0.6, 0.9), 1)]
    found = group_lookalikes(centres, pairs)
    assert [(pair.right, pair.cosine) for pair in found.pairs] == [(2, 0.9), (5, 0.9)]
    assert found.count == 5 and found.person.tolist() == [0] * 6


def test_the_store_returns_the_rows_it_was_given() -> None:
    vectors = np.random.default_rng(0).normal(size=(10, 128)).astype(np.float32)
    with EmbeddingStore() as store:
        store.append(vectors[:7])
        assert np.array_equal(store.read(np.array([6, 0, 6])), vectors[[6, 0, 6]])
        store.append(vectors[7:])
        assert np.array_equal(store.read(np.array([9, 1])), vectors[[9, 1]])
        assert store.read(np.array([], np.int64)).shape == (0, 128)


@pytest.mark.slow
def test_embeddings_equal_those_of_the_backbone(orl: dict[str, bytes]) -> None:
    from kubeface.models.model import load_pretrained

    crops = np.stack([decode_rgb(crop_of(orl[f"s{person}/1.pgm"])) for person in (1, 2)])
    embed = sface()
    ours = np.stack([embed(crop) for crop in crops])
    assert (ours * load_pretrained("sface").embed(crops)).sum(1).min() > 0.9999
    larger = np.asarray(Image.fromarray(crops[0]).resize((224, 224), Image.Resampling.BICUBIC))
    assert float(embed(larger) @ ours[0]) > 0.95
    assert np.array_equal(to_unit_length(np.zeros((1, 4))), np.zeros((1, 4)))
