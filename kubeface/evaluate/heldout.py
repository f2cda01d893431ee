"""Held-out people: which images show them, their crops, and their embeddings by every model."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kubeface.evaluate.pair_sets import PairSet, measure_set
from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB, decode_rgb
from kubeface.metrics.pairs import Ints, Pairs
from kubeface.models.embeddings import Embeddings, Model, embed_batch
from kubeface.runtime.errors import require
from kubeface.runtime.progress import Progress
from kubeface.storage.folders import read_json
from kubeface.tables.labels import read_people
from kubeface.tables.resolution_pairs import HIGH, LOW, partners, resolution_of
from kubeface.tables.row_index import Reader, RowIndex, row_index
from kubeface.tables.table import Table

BATCH = 64
CLEAN_PREFIX = "clean/"  # before the image ids of the set of clean crops, which have pictures of their own


@dataclass(frozen=True)
class HeldoutCrops:
    """The embedded crops of held-out people: the person's number of each image, embeddings by set and model."""

    ids: list[str]
    identities: list[str]
    people: Ints
    embeddings: Mapping[str, Mapping[str, Embeddings]]

    def pair_set(self, name: str, of: str, pairs: Pairs) -> PairSet:
        """Pairs of these images with the embeddings of a set."""
        images = [CLEAN_PREFIX + image_id for image_id in self.ids] if of == "heldout_clean" else self.ids
        return measure_set(name, images, self.identities, self.people, pairs, self.embeddings[of])

    def index(self, table: Table) -> dict[str, int]:
        """The index of each image by its id and by its path below the data source."""
        index = {image_id: number for number, image_id in enumerate(self.ids)}
        sources = table.columns(["image_id", "source"]).to_pylist()
        return index | {row["source"]: index[row["image_id"]] for row in sources if row["image_id"] in index}


@dataclass(frozen=True)
class View:
    """A batch of held-out photographs: ids, sharp crops, and low-resolution images where a camera took both."""

    ids: list[str]
    sharp: list[RGB]
    low: list[RGB] | None = None


@dataclass(frozen=True)
class Heldout:
    """The held-out photographs: identity by image_id, of pairs of a low and a high image by that of the low one.

    `pairs` has the rows of both images; `alone` is how many images have no partner and are left out.
    """

    table: Table
    people: dict[str, str]
    pairs: RowIndex | None = None
    alone: int = 0

    def crops(self, wanted: Mapping[str, str]) -> Iterator[tuple[list[str], list[RGB]]]:
        """Ids and sharp crops of some of the photographs, a batch at a time."""
        return ((view.ids, view.sharp) for view in self.views(wanted))

    def views(self, wanted: Mapping[str, str]) -> Iterator[View]:
        """Some of the photographs, a batch at a time in stored order."""
        if self.pairs is None:
            yield from (View(ids, crops) for ids, crops in crops_of(self.table, dict(wanted)))
            return
        read, pairs = Reader(), self.pairs
        chosen = [index for index in range(len(pairs)) if pairs[index].image_id in wanted]
        for start in range(0, len(chosen), BATCH):
            batch = chosen[start : start + BATCH]
            sharp = [read(row) for index in batch if (row := pairs.sharp(index)) is not None]
            yield View([pairs[i].image_id for i in batch], sharp, [read(pairs[i]) for i in batch])


def heldout_photographs(table: Table, divided: Table, model: Path) -> Heldout:
    """The held-out people's photographs; where there are pairs of a low and a high image, those alone.

    Raises:
        KubefaceError: as `heldout_people`; no two images are of one photograph, or all pairs of one person.
    """
    people = heldout_people(divided, model)
    # An image that split leaves out, since the filter refused it, is no partner either.
    partner_of = {low: high for low, high in partners(table).items() if low in people and high in people}
    if not partner_of:
        resolutions = {
            resolution_of(row["groups"])
            for rows in table.row_groups(["image_id", "groups"])
            for row in rows
            if row["image_id"] in people
        }
        require(
            not {LOW, HIGH} <= resolutions,
            f"{divided.folder} holds out low and high images, but no two of one photograph: give both of a photograph "
            "the same file name",
        )
        return Heldout(table, people)
    chosen = {low: people[low] for low in partner_of}
    require(
        len(set(chosen.values())) >= 2,
        f"{divided.folder} holds out pairs of low and high images of {len(set(chosen.values()))} people, at least 2 "
        "are needed",
    )
    return Heldout(table, chosen, row_index(table, dict.fromkeys(chosen, 0)), len(people) - 2 * len(chosen))


def heldout_people(divided: Table, model: Path) -> dict[str, str]:
    """Identity by image id of the held-out people, none of whom the model was trained on."""
    rows = divided.columns(["image_id", "identity", "split"]).to_pylist()
    heldout = {row["image_id"]: row["identity"] for row in rows if row["split"] == "heldout"}
    people = set(heldout.values())
    require(len(people) >= 2, f"{divided.folder} holds out {len(people)} people, at least 2 are needed")
    config = read_json(model / "model.json")
    training = config.get("training", {})
    refuse_leaked_network(config.get("superresolution", {}).get("identities", []), people, f"of {model}", divided)
    require("start_sha256" in training, f"{model / 'model.json'} tells of no training: give finetune's folder")
    leaked = sorted(people & set(read_json(model / "identities.json")))
    require(
        not leaked,
        f"{len(leaked)} held-out people of {divided.folder} are people that {model} was trained on, "
        f"{leaked[0] if leaked else ''} first: evaluate with the split that it was trained with",
    )
    return heldout


def refuse_leaked_network(identities: Iterable[str], people: Iterable[str], network: str, divided: Table) -> None:
    """Raises KubefaceError where a super-resolution network was trained on held-out people."""
    seen = sorted(set(people) & set(identities))
    require(
        not seen,
        f"{len(seen)} held-out people of {divided.folder} are people that the super-resolution network {network} was "
        f"trained on, {seen[0] if seen else ''} first: train it with this split",
    )


def refuse_overlap(table: Table, divided: Table) -> None:
    """Raises KubefaceError where the group column `person` has somebody both trained on and held out."""
    people = dict(zip(table.columns(["image_id"])["image_id"].to_pylist(), read_people(table), strict=True))
    sides: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for row in divided.columns(["image_id", "split"]).to_pylist():
        if row["split"] in sides and (person := people.get(row["image_id"])):
            sides[row["split"]].add(person)
    both = sorted(sides["train"] & sides["heldout"])
    require(
        not both,
        f"{len(both)} people of {divided.folder} are both trained on and held out, {both[0] if both else ''} first: "
        "run split again, which keeps a person on one side",
    )


def crops_of(table: Table, wanted: dict[str, str]) -> Iterator[tuple[list[str], list[RGB]]]:
    """Ids and clean crops of the wanted images, a batch at a time in stored order."""
    ids: list[str] = []
    crops: list[RGB] = []
    for rows in table.row_groups(["image_id", "image"]):
        for row in rows:
            if row["image_id"] in wanted:
                ids.append(row["image_id"])
                crops.append(decode_rgb(row["image"]))
            if len(ids) == BATCH:
                yield ids, crops
                ids, crops = [], []
    if ids:
        yield ids, crops


def embed_crops(heldout: Heldout, models: Mapping[str, Model], sets: Mapping[str, Degradation]) -> HeldoutCrops:
    """The held-out people's crops, embedded in every set by every model.

    Of pairs the set `heldout` has the low images as they are; else each set has the crops under its degradation.
    """
    wanted = heldout.people
    collected = {name: {which: Embeddings() for which in models} for name in sets}
    order: list[str] = []
    with Progress("evaluate", len(wanted)) as progress:
        for view in heldout.views(wanted):
            ids = view.ids
            order += ids
            for name, degradation in sets.items():
                if name == "heldout" and view.low is not None:
                    batch = np.stack(view.low)
                else:
                    batch = np.stack([degradation(crop, "probe", i) for crop, i in zip(view.sharp, ids, strict=True)])
                for which, model in models.items():
                    collected[name][which].append(*embed_batch(model, batch))
            progress.advance(len(ids))
    require(
        len(order) == len(wanted), f"{heldout.table.folder} lacks images that the split names: run split on this table"
    )
    identities = [wanted[image_id] for image_id in order]
    _, people = np.unique(identities, return_inverse=True)
    return HeldoutCrops(order, identities, people, collected)


def group_columns(table: Table, ids: list[str]) -> dict[str, list[str | None]]:
    """The value of each group column by image, in the order of the ids."""
    wanted = set(ids)
    rows = {row["image_id"]: json.loads(row["groups"] or "{}")
            for row in table.columns(["image_id", "groups"]).to_pylist() if row["image_id"] in wanted}  # fmt: skip
    columns = sorted({name for groups in rows.values() for name in groups})
    return {name: [rows[image_id].get(name) for image_id in ids] for name in columns}
