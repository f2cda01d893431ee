"""Degradation probes: both models measured under one degradation after another."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB
from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.pairs import all_pairs
from kubeface.metrics.verification import bootstrap_difference, supported_fars
from kubeface.models.embeddings import Model, Vectors
from kubeface.records.recognition_figures import ProbeFigures, ProbeRow
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.keyed_rng import by_rank
from kubeface.runtime.progress import Progress

CLEAN = "clean"
PROBES = (
    CLEAN,
    "lowres:32",
    "lowres:24",
    "lowres:16",
    "lowres:14",
    "lowres:10",
    "blur:4",
    "jpeg:5",
    "grey",
    "dark",
    "masked",
    "rotated:15",
)
# What bounds the time: a probe costs each model one forward pass an image, and the intervals a pass over the pairs.
PROBE_IMAGES = 1_000
PROBE_IMAGES_OF_ONE = 50  # so that there are twenty people at least, where there are so many, for intervals over people
PROBE_PAIRS = 20_000
MODELS = ("baseline", "finetuned")

# The wanted images by id → batches of ids and clean crops, each image once, in any order.
Crops = Callable[[dict[str, str]], Iterator[tuple[list[str], list[RGB]]]]


def parse_probes(text: str) -> list[Degradation]:
    """Reads probes divided by spaces, as `clean lowres:14 dark`; `all` is PROBES, `none` or nothing is no probe.

    Raises:
        KubefaceError: a word that is no degradation.
    """
    words = text.split()
    if words in ([], ["none"]):
        return []
    try:
        require("none" not in words, f"'none' is no probe: write {CLEAN} for crops as they are")
        names = PROBES if words == ["all"] else words
        chosen = [Degradation() if name == CLEAN else Degradation.parse(name) for name in names]
    except KubefaceError as error:
        raise KubefaceError(f"probes: {error}; or {CLEAN}, all by itself, or none by itself") from error
    return list(dict.fromkeys(chosen))


def probe_name(probed: Degradation) -> str:
    """A probe as it is written: clean, lowres:14, dark:0.2 …"""
    return str(probed) if probed else CLEAN


def probe(
    models: Mapping[str, Model],
    crops: Crops,
    identities: Mapping[str, str],
    probes: Sequence[Degradation],
    far: float,
    bootstrap: Bootstrap = Bootstrap(),
) -> list[ProbeRow]:
    """Measures the models on held-out people under each degradation; both see the same images and pairs.

    Crops are read once; what grows with images and probes are embeddings alone. At most PROBE_IMAGES images of people
    chosen at random are taken and PROBE_PAIRS pairs of them, without flip.

    Args:
        crops: gives the clean crops of the images it is called with.
        identities: the held-out images, identity by image id.
        far: the false accept rate of the TAR; the least that the pairs support where that is larger.
        bootstrap: how the intervals are made; its seed also draws images and pairs.

    Raises:
        KubefaceError: the crops lack an image, or the people are too few to measure on.
    """
    if not probes:
        return []
    wanted = choose_images(identities, bootstrap.seed)
    order: list[str] = []
    collected: dict[tuple[Degradation, str], list[Vectors]] = {}
    with Progress("probes", len(wanted)) as progress:
        for ids, clean in crops(wanted):
            order += ids
            for degradation in probes:
                batch = np.stack([degradation(crop, "probe", i) for crop, i in zip(clean, ids, strict=True)])
                for which in MODELS:
                    collected.setdefault((degradation, which), []).append(models[which].embed(batch))
            progress.advance(len(ids))
    require(sorted(order) == sorted(wanted), f"probes: {len(order)} crops were given, {len(wanted)} are wanted")
    _, people = np.unique([wanted[image_id] for image_id in order], return_inverse=True)
    pairs = all_pairs(people, PROBE_PAIRS, bootstrap.seed)
    fars = supported_fars(int(np.sum(~pairs.same)))
    require(
        bool(fars) and bool(pairs.same.any()),
        f"probes: {len(order)} images of {people.max() + 1} people are too few to measure on; set probes to none",
    )
    far = max(far, min(fars))
    rows = []
    for degradation in probes:
        before, after = (pairs.scores(np.concatenate(collected.pop((degradation, which)))) for which in MODELS)
        gain = bootstrap_difference(before, after, pairs, people, far, bootstrap)
        rows.append(
            ProbeRow(
                probe=probe_name(degradation),
                far=far,
                baseline=ProbeFigures(**{name: entry.before for name, entry in gain.items()}),
                finetuned=ProbeFigures(**{name: entry.after for name, entry in gain.items()}),
                gain=gain,
            )
        )
    return rows


def choose_images(identities: Mapping[str, str], seed: int, most: int = PROBE_IMAGES) -> dict[str, str]:
    """At most `most` images (identity by id) of people drawn at random, PROBE_IMAGES_OF_ONE of a person at most.

    People with several images come first: the others give no genuine pair. The same seed chooses the same images in
    whatever order they are given; they come in the given order.
    """
    images: dict[str, list[str]] = {}
    for image_id, identity in identities.items():
        images.setdefault(identity, []).append(image_id)
    names = list(images)
    drawn = [names[place] for place in by_rank(seed, names)]
    chosen: set[str] = set()
    for person in sorted(drawn, key=lambda name: len(images[name]) == 1):
        own = images[person]
        own = [own[place] for place in by_rank(seed, own)[: min(PROBE_IMAGES_OF_ONE, most - len(chosen))]]
        chosen.update(own)
    return {image_id: identity for image_id, identity in identities.items() if image_id in chosen}
