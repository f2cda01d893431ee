"""Low-resolution faces: against sharp photographs, by size, made of crops and as a table of pairs has them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kubeface.evaluate.heldout import CLEAN_PREFIX, HeldoutCrops
from kubeface.evaluate.measurement import choose_enlarger
from kubeface.evaluate.options import EvaluateOptions
from kubeface.evaluate.resolutions import (
    CROSS,
    FixedThresholds,
    Size,
    Sized,
    cross_set,
    fixed_thresholds,
    measure_sizes,
    nearest,
)
from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB
from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.pairs import all_pairs
from kubeface.metrics.verification import verification
from kubeface.models.embeddings import Embeddings
from kubeface.models.model import load_pretrained
from kubeface.models.superresolution import Enlarger, open_enlarger
from kubeface.models.superresolution_networks import Enlarging, save_network
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import read_options
from kubeface.storage.folders import read_json
from tests.kubeface.conftest import SmallLfw
from tests.support.evaluating import QUICK, evaluate, lfw, read
from tests.support.exported import configured, copied
from tests.support.json_files import edit

SIZED = QUICK | {"fmr": 0.1, "sizes": "8 16"}
TEN = Degradation("lowres", 10)
MODELS = ("baseline", "finetuned")


def cosines(one: Any, other: Any) -> Any:
    return np.einsum("nd,nd->n", one, other)


# --- sizes and pairs ------------------------------------------------------------------------------------------------


def test_sizes_are_read_in_their_order() -> None:
    assert EvaluateOptions(sizes="20 10  14 10").sides() == [10, 14, 20]


@pytest.mark.parametrize("text", ["", " ", "1", "113", "-3", "14.5", "10,14", "clean", "²"])
def test_wrong_sizes_are_named(text: str) -> None:
    with pytest.raises(KubefaceError, match=r"^sizes is .*give sides in pixels, 2 to 112"):
        read_options(EvaluateOptions, {"sizes": text})


def test_a_side_belongs_to_the_size_nearest_by_ratio() -> None:
    assert [nearest(side, [10, 20]) for side in (0, 1, 14, 14.2, 200)] == [10, 10, 10, 20, 20]


def unit(random: np.random.Generator, count: int) -> Any:
    vectors = random.standard_normal((count, 5)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def embeddings(plain: Any, mirrored: Any) -> Embeddings:
    found = Embeddings()
    found.append(plain, mirrored)
    return found


def drawn(people: list[int], seed: int = 0) -> HeldoutCrops:
    """Random embeddings of photographs."""
    random = np.random.default_rng(seed)
    names = [f"i{number}" for number in range(len(people))]
    vectors = {
        name: {which: embeddings(unit(random, len(people)), unit(random, len(people))) for which in MODELS}
        for name in ("heldout", "heldout_clean")
    }
    return HeldoutCrops(names, [f"p{person}" for person in people], np.array(people), vectors)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=12), st.integers(40, 250), st.integers(0, 5))
def test_no_photograph_is_compared_with_itself(people: list[int], most: int, seed: int) -> None:
    crops = drawn([0, 0, 1, *people], seed)
    found = cross_set(crops, most, seed)
    left, right = ([found.images[place] for place in side] for side in (found.pairs.left, found.pairs.right))
    assert len(found.pairs) <= most
    assert set(left) <= set(crops.ids) and all(name.startswith(CLEAN_PREFIX) for name in right)
    couples = list(zip(left, [name.removeprefix(CLEAN_PREFIX) for name in right], strict=True))
    assert all(one != other for one, other in couples) and len(set(couples)) == len(couples)
    person = dict(zip(crops.ids, crops.identities, strict=True))
    assert [person[one] == person[other] for one, other in couples] == found.pairs.same.tolist()
    if most >= len(crops.ids) * (len(crops.ids) - 1):
        assert len(couples) == len(crops.ids) * (len(crops.ids) - 1)


def test_the_left_image_is_low_resolution_and_the_right_one_sharp() -> None:
    crops = drawn([0, 0, 1, 1, 2, 2])
    found = cross_set(crops, 1000, 0)
    left, right = found.pairs.left, found.pairs.right - len(crops.ids)
    for which in MODELS:
        low, sharp = (crops.embeddings[name][which] for name in ("heldout", "heldout_clean"))
        np.testing.assert_allclose(found.scores[which], cosines(low.plain()[left], sharp.plain()[right]), atol=1e-6)
        expected = verification(cosines(low.flipped()[left], sharp.flipped()[right]), found.pairs.same)
        assert (found.figures[which].flip or found.figures[which]).auc == pytest.approx(expected.auc)
    assert [found.identities[place] for place in found.pairs.right] == [crops.identities[place] for place in right]


# --- figures by size ------------------------------------------------------------------------------------------------


def known(people: Any, noise: float, seed: int) -> Embeddings:
    """A direction for each person, with so much noise on it; mirror images have less."""
    random = np.random.default_rng(seed)
    centres = unit(np.random.default_rng(7), 10)
    parts = [centres[people] + share * random.standard_normal((len(people), 5)) for share in (noise, noise / 2)]
    plain, mirrored = ((part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in parts)
    return embeddings(plain, mirrored)


PERSONS = np.repeat(np.arange(10), 5)
BOOTSTRAP = Bootstrap(100)


def by_models(noises: tuple[float, ...], people: Any = PERSONS) -> dict[str, Embeddings]:
    return {
        which: known(people, noise, number) for number, (which, noise) in enumerate(zip(MODELS, noises, strict=True))
    }


def test_figures_are_those_of_the_pairs() -> None:
    sharp, few = by_models((0.05, 0.05)), by_models((0.8, 0.3))
    fixed = FixedThresholds(0.1, 0.6, 0.5)
    sizes = [Size("10", np.arange(50), few), Size("clean", np.arange(50), sharp)]
    told = measure_sizes(Sized([], PERSONS, sharp, sizes), 0.1, BOOTSTRAP, fixed)
    assert (told.fmr, told.threshold, told.threshold_flip, told.left_out) == (0.1, 0.6, 0.5, [])
    row, clean = (found.model_dump() for found in told.rows)
    assert (row["size"], row["images"], row["people"], row["probes"]) == ("10", 50, 10, 40)
    pairs = all_pairs(PERSONS, 10_000)
    for which in MODELS:
        for flip, threshold in ((False, 0.6), (True, 0.5)):
            one, other = (found[which].flipped() if flip else found[which].plain() for found in (few, sharp))
            both = np.concatenate([pairs.left, pairs.right]), np.concatenate([pairs.right, pairs.left])
            for kind, scores, same in (
                ("same", cosines(one[pairs.left], one[pairs.right]), pairs.same),
                ("cross", cosines(one[both[0]], other[both[1]]), np.tile(pairs.same, 2)),
            ):
                entry = row[kind][which]["flip"] if flip else row[kind][which]
                expected = verification(scores, same)
                assert row[kind]["pairs"] == len(same) and row[kind]["far"] == 0.1
                assert entry["auc"] == pytest.approx(expected.auc, abs=1e-6)
                assert entry["tar"] == pytest.approx(expected.tar_at_far["0.1"], abs=2e-3)
                assert entry["accuracy"] == pytest.approx(expected.accuracy, abs=2e-3)
                assert entry["accuracy_standard_error"] > 0
                called = scores > threshold
                assert entry["tmr_fixed"] == pytest.approx(called[same].mean(), abs=1e-3)
                assert entry["fmr_fixed"] == pytest.approx(called[~same].mean(), abs=1e-3)
                assert entry["accuracy_fixed"] == pytest.approx((called == same).mean(), abs=1e-3)
    for kind in ("cross", "same"):
        gain = row[kind]["gain"]
        assert set(gain) == {"auc", "tar", "accuracy", "accuracy_fixed"}
        for name, entry in gain.items():
            assert entry["before"] == pytest.approx(row[kind]["baseline"][name])
            assert entry["after"] == pytest.approx(row[kind]["finetuned"][name])
            assert entry["gain"] == pytest.approx(entry["after"] - entry["before"])
            assert entry["gain_low"] < entry["gain"] < entry["gain_high"]
        assert gain["auc"]["gain_low"] > 0
        assert "gain_over_bicubic" not in row[kind]
    assert clean["cross"] == clean["same"] and clean["size"] == "clean"
    assert row["rank1"]["baseline"] < row["rank1"]["finetuned"] <= clean["rank1"]["finetuned"] == 1


def test_rank_1_is_counted_against_one_sharp_photograph_of_each() -> None:
    """Two people: the first photograph of each is enrolled; of four probes one lies nearer to the other."""
    people = np.array([0, 0, 0, 1, 1, 1] * 3)
    people[6:] += np.repeat([2, 4], 6)
    axes = np.eye(6, dtype=np.float32)
    sharp = embeddings(axes[people], axes[people])
    moved = axes[people].copy()
    moved[1], moved[0] = axes[1], axes[3]  # the second is a probe, the first is the enrolled one's own
    few = embeddings(moved, moved)
    models = dict.fromkeys(MODELS, few)
    sized = Sized([], people, dict.fromkeys(MODELS, sharp), [Size("10", np.arange(18), models)])
    told = measure_sizes(sized, 0.1, BOOTSTRAP, FixedThresholds(0.1, 0.5, 0.5))
    assert told.rows[0].probes == 12
    assert told.rows[0].rank1 == {which: pytest.approx(11 / 12) for which in MODELS}


def test_a_size_of_too_few_photographs_is_left_out_and_named() -> None:
    sharp = by_models((0.1, 0.1))
    many = np.arange(30)
    few = {which: known(PERSONS[many], 0.5, 3) for which in MODELS}
    one = np.array([49])
    alone = {which: known(PERSONS[one], 0.5, 3) for which in MODELS}
    empty = Size("20", one[:0], {which: Embeddings() for which in MODELS})
    sized = Sized([], PERSONS, sharp, [Size("10", many, few), Size("14", one, alone), empty])
    told = measure_sizes(sized, 0.1, BOOTSTRAP, FixedThresholds(0.1, 0.5, 0.5))
    assert [(row.size, row.images, row.people) for row in told.rows] == [("10", 30, 6)]
    assert [(size.size, size.images) for size in told.left_out] == [("14", 1), ("20", 0)]


def test_the_fixed_threshold_is_the_starting_models_on_sharp_photographs() -> None:
    crops = drawn([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    pairs = all_pairs(crops.people, 1000)
    fixed = fixed_thresholds(crops, pairs, 0.1)
    sharp = crops.embeddings["heldout_clean"]["baseline"]
    for threshold, vectors in ((fixed.plain, sharp.plain()), (fixed.flipped, sharp.flipped())):
        impostors = pairs.scores(vectors)[~pairs.same]
        assert np.sum(impostors > threshold) == int(0.1 * len(impostors))


# --- made of sharp crops --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held(heldout: dict[str, tuple[str, RGB]]) -> dict[str, RGB]:
    """The held-out crops by image id."""
    return {name: crop for name, (_, crop) in heldout.items()}


@pytest.fixture(scope="module")
def reduced_faces(
    aligned_table: Path, split_table: Path, mended: Path, small_lfw: SmallLfw, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("reduced") / "evaluation"
    evaluate(
        aligned_table, split_table, mended, out, degradation="lowres:10", gate={"target": CROSS},
        lfw_archive=str(small_lfw.archive), lfw_pairs=str(small_lfw.pairs), **SIZED,
    )  # fmt: skip
    return out


def test_cross_is_a_set_like_the_others(reduced_faces: Path) -> None:
    found = read(reduced_faces)
    others = ("heldout", "heldout_clean")
    for part in (*MODELS, "gain", "paired", "histograms"):
        assert {CROSS, *others} <= set(found[part])
        assert set(found[part][CROSS]) == set(found[part]["heldout"])
    assert found["baseline"][CROSS]["genuine_pairs"] == 2 * found["baseline"]["heldout"]["genuine_pairs"] == 60
    assert found["gate"]["rule"]["target"] == CROSS and found["gate"]["better"]
    assert CROSS in read_json(reduced_faces / "roc.json")
    assert f"{CROSS},finetuned," in (reduced_faces / "thresholds.csv").read_text()
    assert found["low_resolution"] == {"paired": False, "alone": 0, "superresolver": "bicubic"}
    assert found["settings"]["sizes"] == "8 16"


def test_cross_scores_are_cosines(reduced_faces: Path, mended: Path, held: dict[str, RGB]) -> None:
    rows = pq.read_table(reduced_faces / "scores_cross.parquet").to_pylist()
    names = list(held)
    place = {name: number for number, name in enumerate(names)}
    model = load_pretrained("sface")
    sharp = model.embed(np.stack([held[name] for name in names]))
    few = model.embed(np.stack([TEN(held[name], "probe", name) for name in names]))
    assert len(rows) == 15 * 14
    expected = [few[place[row["left"]]] @ sharp[place[row["right"].removeprefix(CLEAN_PREFIX)]] for row in rows]
    np.testing.assert_allclose([row[f"{CROSS}_finetuned"] for row in rows], expected, atol=2e-4)


def test_hardest_cross_pairs_are_shown_as_they_were_compared(reduced_faces: Path, held: dict[str, RGB]) -> None:
    hardest = read(reduced_faces)["hardest_cross"]
    assert len(hardest["genuine"]) == len(hardest["impostor"]) == 8
    for pair in [*hardest["genuine"], *hardest["impostor"]]:
        left, right = pair["left"], pair["right"].removeprefix(CLEAN_PREFIX)
        assert right != pair["right"] and right != left
        for name, expected in ((left, TEN(held[left], "probe", left)), (f"clean__{right}", held[right])):
            shown = np.asarray(Image.open(reduced_faces / "pairs" / f"{name}.png"))
            np.testing.assert_array_equal(shown, expected)


def test_every_size_is_measured(reduced_faces: Path, held: dict[str, RGB]) -> None:
    found = read(reduced_faces)
    told = found["resolutions"]
    assert [row["size"] for row in told["rows"]] == ["8", "16", "clean"] and told["left_out"] == []
    assert all((row["images"], row["people"], row["probes"]) == (15, 3, 12) for row in told["rows"])
    model = load_pretrained("sface")
    names = list(held)
    eight = model.embed(np.stack([Degradation("lowres", 8)(held[name], "probe", name) for name in names]))
    rows = pq.read_table(reduced_faces / "scores.parquet").to_pylist()
    scores = [eight[names.index(row["left"])] @ eight[names.index(row["right"])] for row in rows]
    expected = verification(np.array(scores, np.float64), np.array([row["same"] for row in rows]))
    assert told["rows"][0]["same"]["finetuned"]["auc"] == pytest.approx(expected.auc, abs=2e-3)
    aucs = [row["cross"]["finetuned"]["auc"] for row in told["rows"]]
    assert aucs[0] < aucs[2] and aucs[0] <= aucs[1]
    clean = told["rows"][2]["same"]
    for which in MODELS:
        assert clean[which]["auc"] == pytest.approx(found[which]["heldout_clean"]["auc"])
    assert clean["baseline"]["fmr_fixed"] == pytest.approx(0.1, abs=0.02)  # the threshold is made of the same pairs


def test_lfw_is_measured_at_every_size(
    reduced_faces: Path, small_lfw: SmallLfw, mended: Path, network: Enlarger, tmp_path: Path
) -> None:
    told = read(reduced_faces)["lfw"]
    assert [row["size"] for row in told["sizes"]] == ["8", "16"]
    model = with_network(mended, network, tmp_path / "model")
    given = str(small_lfw.archive), str(small_lfw.pairs), str(model)
    one, other = (
        lfw(*given, detector=told["detector"], degradation="lowres:8", **chosen)
        for chosen in ({}, {"superresolver": str(model)})
    )
    assert one.threshold != other.threshold
    row = told["sizes"][0]
    for name in ("accuracy", "accuracy_standard_error", "auc"):
        assert row["finetuned"][name] == pytest.approx(getattr(one, name), abs=1e-6)
        assert row["finetuned"]["flip"][name] == pytest.approx(getattr(one.flip, name), abs=1e-6)
    assert set(row) == {"size", *MODELS} and "roc" not in row["baseline"]
    assert row["finetuned"]["auc"] > row["baseline"]["auc"]


# --- enlarged by a network ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Enlarger:
    """A network for eight times the size that makes everything brighter than bicubic interpolation."""
    made = Enlarging("espcn", 8, 4, 1)
    torch.nn.init.constant_(made.tail.bias, 0.2)  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("network") / "bright.safetensors"
    save_network(made, path)
    return open_enlarger(str(path))


def with_network(model: Path, network: Enlarger, to: Path, *people: str) -> Path:
    """The model folder with a network that says it was trained on some people."""
    folder = copied(model, to)
    told = Enlarger(network.name, network.scale, network.network, people).write(folder)
    return configured(folder, superresolution=told.model_dump(mode="json"))


def test_the_network_of_the_model_enlarges(
    aligned_table: Path, split_table: Path, mended: Path, network: Enlarger, held: dict[str, RGB],
    reduced_faces: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """Beside the evaluation of the same model without a network."""
    model, out = with_network(mended, network, tmp_path / "model", "somebody else"), tmp_path / "own"
    evaluate(aligned_table, split_table, model, out, degradation="lowres:10", **SIZED | {"sizes": "8"})
    own, plain = read(out), read(reduced_faces)
    superresolvers = [found["low_resolution"]["superresolver"] for found in (own, plain)]
    assert superresolvers == [network.name, "bicubic"]
    name = next(iter((out / "samples").iterdir())).stem
    shown = np.asarray(Image.open(out / "samples" / f"{name}.png"))
    np.testing.assert_array_equal(shown[:, 112:], Degradation("lowres", 10, enlarger=network)(held[name]))
    for folder, ways in ((out, [None, network]), (reduced_faces, [None])):
        faces = sorted((folder / "sizes" / "8").iterdir())
        assert len(faces) == 4
        for path in faces:
            sharp = held[path.stem]
            made = [Degradation("lowres", 8, enlarger=way)(sharp) for way in ways]
            np.testing.assert_array_equal(np.asarray(Image.open(path)), np.concatenate([*made, sharp], axis=1))
    row, other = own["resolutions"]["rows"][0], plain["resolutions"]["rows"][0]
    for kind in ("cross", "same"):
        assert row[kind]["bicubic"] == other[kind]["baseline"] != row[kind]["baseline"]
        assert row[kind]["gain_over_bicubic"]["auc"]["before"] == pytest.approx(row[kind]["bicubic"]["auc"])
        assert row[kind]["gain_over_bicubic"]["auc"]["after"] == row[kind]["gain"]["auc"]["after"]
        assert "bicubic" not in other[kind]
    assert row["rank1"]["bicubic"] == other["rank1"]["baseline"]


def test_the_network_is_the_one_that_is_given_or_the_models_own(
    mended: Path, network: Enlarger, tmp_path: Path
) -> None:
    model = with_network(mended, network, tmp_path / "model")
    for chosen, folder in (("", model), (str(model), mended)):
        found = choose_enlarger(chosen, folder)
        assert found is not None and (found.name, found.network) == (network.name, network.network)
    assert choose_enlarger("bicubic", model) is choose_enlarger("", mended) is None


def test_a_network_that_knows_held_out_people_is_refused(
    aligned_table: Path, split_table: Path, mended: Path, network: Enlarger, tmp_path: Path,
    heldout: dict[str, tuple[str, RGB]],
) -> None:  # fmt: skip
    person = min(name for name, _ in heldout.values())
    leaking = with_network(mended, network, tmp_path / "leaking", person, "somebody else")
    for model, chosen in ((leaking, ""), (mended, str(leaking))):
        with pytest.raises(KubefaceError, match=f"1 held-out people .* super-resolution network .*, {person} first"):
            evaluate(
                aligned_table, split_table, model, tmp_path / "out", degradation="lowres:10", superresolver=chosen,
                **SIZED,
            )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_another_network_than_the_model_tells_of_is_refused(
    aligned_table: Path, split_table: Path, mended: Path, network: Enlarger, tmp_path: Path
) -> None:
    model = with_network(mended, network, tmp_path / "model")
    edit(model / "model.json", lambda config: config["superresolution"].update(sha256=64 * "0"))
    with pytest.raises(KubefaceError, match=r"is not the network that model\.json tells of"):
        evaluate(aligned_table, split_table, model, tmp_path / "out", degradation="lowres:10", **SIZED)
    (model / "superresolution.onnx").unlink()
    with pytest.raises(KubefaceError, match=r"superresolution\.onnx"):
        evaluate(aligned_table, split_table, model, tmp_path / "out", degradation="lowres:10", **SIZED)
