"""What is measured of a recognition model: inputs checked before the work, sets of pairs, figures derived of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kubeface.evaluate.bin_sets import evaluate_bin, read_bin
from kubeface.evaluate.compatibility import compatibility
from kubeface.evaluate.gate import GATE_FAR, require_target
from kubeface.evaluate.groups import group_errors
from kubeface.evaluate.heldout import (
    Heldout,
    HeldoutCrops,
    embed_crops,
    group_columns,
    heldout_photographs,
    refuse_leaked_network,
)
from kubeface.evaluate.lfw import Lfw, evaluate_lfw, read_pairs
from kubeface.evaluate.options import EvaluateOptions
from kubeface.evaluate.pair_sets import PairSet
from kubeface.evaluate.probes import CLEAN, choose_images, parse_probes, probe_name
from kubeface.evaluate.resolutions import CROSS, cross_set, embed_sizes, fixed_thresholds, measure_sizes, native_sides
from kubeface.evaluate.user_pairs import read_user_pairs
from kubeface.faces.degradation import Degradation
from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.calibration import calibrate, threshold_at
from kubeface.metrics.figures import Calibration, IdentificationFigures, PairFigures
from kubeface.metrics.identification import identification_rates
from kubeface.metrics.pairs import Pairs, all_pairs
from kubeface.metrics.score_counts import count_scores
from kubeface.metrics.verification import supported_fars
from kubeface.models.onnx_model import OnnxModel
from kubeface.models.recogniser import model_enlarger
from kubeface.models.superresolution import BICUBIC, Enlarger, open_enlarger
from kubeface.records.evaluation import EvaluationSettings
from kubeface.records.model import ModelRecord
from kubeface.records.recognition_figures import (
    Compatibility,
    GroupColumn,
    LfwRecord,
    LfwSize,
    LowResolution,
    Resolutions,
)
from kubeface.runtime.errors import require
from kubeface.runtime.processors import cpu_limit
from kubeface.storage.sources import open_source
from kubeface.tables.resolution_pairs import ENLARGED, RESOLUTION
from kubeface.tables.table import Table

SHOWN_OF_SIZE = 4  # faces shown of each size

Models = Mapping[str, OnnxModel]


@dataclass(frozen=True)
class Inputs:
    """What an evaluation measures; `degradation` is none where cameras took low-resolution images."""

    options: EvaluateOptions
    table: Table
    divided: Table
    photographs: Heldout
    enlarger: Enlarger | None
    degradation: Degradation
    sets: Mapping[str, Degradation]
    probes: Sequence[Degradation]

    @property
    def detector(self) -> str:
        """Detector that the crops were aligned with."""
        return str(self.table.manifest.settings["detector"])

    @property
    def bootstrap(self) -> Bootstrap:
        """How the intervals are made."""
        return Bootstrap(self.options.bootstrap, self.options.seed, self.options.gate.confidence)

    @property
    def has_low_resolution(self) -> bool:
        """Whether low-resolution faces are measured."""
        return self.photographs.pairs is not None or self.degradation.kind == "lowres"

    @property
    def low_resolution(self) -> LowResolution | None:
        """Where the low-resolution faces come from."""
        if not self.has_low_resolution:
            return None
        return LowResolution(
            paired=self.photographs.pairs is not None,
            alone=self.photographs.alone,
            superresolver=self.enlarger.name if self.enlarger else BICUBIC,
        )

    @property
    def settings(self) -> EvaluationSettings:
        """The settings for the record."""
        options = self.options
        return EvaluationSettings(
            gate=options.gate,
            bootstrap=options.bootstrap,
            seed=options.seed,
            fmr=options.fmr,
            probes=[probe_name(degradation) for degradation in self.probes],
            max_pairs=options.max_pairs,
            sizes=options.sizes if self.has_low_resolution else None,
        )


def read_inputs(options: EvaluateOptions, aligned: Path, split: Path, model: Path) -> Inputs:
    """Opens the inputs; raises KubefaceError as `evaluate` before the work begins."""
    enlarger = choose_enlarger(options.superresolver, model)
    degradation, probes = Degradation.parse(options.degradation, enlarger), parse_probes(options.probes)
    table, divided = Table(aligned, "aligned"), Table(split, "split")
    photographs = heldout_photographs(table, divided, model)
    if enlarger:
        refuse_leaked_network(enlarger.identities, photographs.people.values(), enlarger.name, divided)
    is_paired = photographs.pairs is not None
    degradation = Degradation() if is_paired else degradation
    sets = {"heldout": degradation} | ({"heldout_clean": Degradation()} if degradation or is_paired else {})
    inputs = Inputs(options, table, divided, photographs, enlarger, degradation, sets, probes)
    bins = options.bin_sets_by_name()
    further = {CROSS: inputs.has_low_resolution, "pairs": bool(options.pairs), "lfw": bool(options.lfw_archive)}
    require_target(options.gate, [*sets, *(name for name, measured in further.items() if measured), *bins])
    if options.lfw_archive:
        read_pairs(options.lfw_pairs)
        with open_source(options.lfw_archive):
            pass
    for uri in bins.values():
        read_bin(uri)
    return inputs


def choose_enlarger(superresolver: str, model: Path) -> Enlarger | None:
    """What enlarges low-resolution crops; None for bicubic interpolation."""
    if superresolver:
        return None if superresolver == BICUBIC else open_enlarger(superresolver, cpu_limit())
    return model_enlarger(str(model), ModelRecord.read(model / "model.json"), cpu_limit())


@dataclass(frozen=True)
class Measured:
    """Scored pairs of every set, the target first; `far` is the false accept rate of the figure tar."""

    crops: HeldoutCrops
    compared: Pairs
    far: float
    sets: Sequence[PairSet]
    lfw: Lfw | None

    @property
    def target(self) -> PairSet:
        """Held-out people under the degradation."""
        return self.sets[0]

    @property
    def clean(self) -> PairSet:
        """Held-out people on clean crops; the target set where there is no degradation."""
        return next((entry for entry in self.sets if entry.name == "heldout_clean"), self.target)

    @property
    def cross(self) -> PairSet | None:
        """Low-resolution against sharp images."""
        return next((entry for entry in self.sets if entry.name == CROSS), None)


def measure(inputs: Inputs, models: Models) -> Measured:
    """Embeds the crops and scores the pairs of every set.

    Raises:
        KubefaceError: the held-out people are too few, or an input cannot be read.
    """
    options, folder = inputs.options, inputs.divided.folder
    crops = embed_crops(inputs.photographs, models, inputs.sets)
    compared = all_pairs(crops.people, options.max_pairs, options.seed)
    require(bool(compared.same.any()), f"{folder}: no held-out person has two images")
    fars = supported_fars(int(np.sum(~compared.same)))
    require(bool(fars), f"{folder}: {len(compared)} pairs of held-out people are too few to measure on")
    sets = [crops.pair_set(name, name, compared) for name in inputs.sets]
    if inputs.has_low_resolution:
        sets.append(cross_set(crops, options.max_pairs, options.seed))
    if options.pairs:
        sets.append(crops.pair_set("pairs", "heldout", read_user_pairs(options.pairs, crops.index(inputs.table))))
    lfw, template = None, models["finetuned"].template
    if options.lfw_archive:
        sides = options.sides() if inputs.has_low_resolution else []
        further = [Degradation("lowres", side, enlarger=inputs.enlarger) for side in sides]
        archive, listed = options.lfw_archive, options.lfw_pairs
        lfw = evaluate_lfw(archive, listed, inputs.detector, models, template=template, further=further)
        sets.append(lfw.measured)
    sets += [evaluate_bin(name, uri, models, template) for name, uri in options.bin_sets_by_name().items()]
    return Measured(crops, compared, max(GATE_FAR, min(fars)), sets, lfw)


def describe_lfw(inputs: Inputs, lfw: Lfw | None) -> LfwRecord | None:
    """What was measured on LFW, for the record."""
    if lfw is None:
        return None
    sizes = [
        LfwSize(size=str(side), **figures) for side, figures in zip(inputs.options.sides(), lfw.further, strict=False)
    ]
    return LfwRecord(
        pairs=len(lfw.measured.pairs),
        images=len(lfw.measured.images),
        detector=inputs.detector,
        fallback=lfw.fallback,
        sizes=sizes if inputs.has_low_resolution else None,
    )


def calibrate_models(inputs: Inputs, found: PairSet) -> dict[str, Calibration]:
    """The calibrated thresholds on a set, by model."""
    return {
        which: calibrate(scores, found.pairs, found.people, inputs.options.fmr, inputs.bootstrap)
        for which, scores in found.scores.items()
    }


def errors_by_group(
    inputs: Inputs, measured: Measured, calibration: Mapping[str, Calibration]
) -> dict[str, GroupColumn]:
    """Errors within groups of people on the target set, by group column."""
    both = ("baseline", "finetuned")
    # Resolution is no group of people, and has figures by size.
    left_out = (RESOLUTION, ENLARGED) if measured.cross else ()
    return {
        column: group_errors(
            values,
            measured.compared,
            measured.crops.people,
            {which: measured.target.scores[which] for which in both},
            {which: calibration[which].threshold for which in both},
            calibration["finetuned"].fmr,
            inputs.bootstrap,
        )
        for column, values in group_columns(inputs.table, measured.crops.ids).items()
        if column not in left_out
    }


def identify_models(inputs: Inputs, measured: Measured) -> dict[str, dict[str, IdentificationFigures]]:
    """Identification rates by set and model."""
    return {
        name: {
            which: identification_rates(entry.plain(), measured.crops.people, inputs.bootstrap)
            for which, entry in by_model.items()
        }
        for name, by_model in measured.crops.embeddings.items()
    }


def compare_galleries(inputs: Inputs, measured: Measured, calibration: Mapping[str, Calibration]) -> Compatibility:
    """Whether a gallery of clean crops, enrolled with the promoted (else starting) model, can stay."""
    old = "champion" if "champion" in measured.target.scores else "baseline"
    crops, clean, fmr = measured.crops, measured.clean, inputs.options.fmr
    embeddings = crops.embeddings[clean.name]
    return compatibility(
        embeddings[old].plain(),
        embeddings["finetuned"].plain(),
        measured.compared,
        crops.people,
        (
            threshold_at(clean.scores[old], measured.compared.same, fmr),
            threshold_at(clean.scores["finetuned"], measured.compared.same, fmr),
        ),
        calibration[old].fmr,
        old,
        inputs.bootstrap,
    )


def count_all_pairs(measured: Measured) -> dict[str, dict[str, PairFigures]] | None:
    """Figures over every pair by set and model; None where every pair was scored one by one."""
    crops = measured.crops
    if len(measured.compared) == len(crops.ids) * (len(crops.ids) - 1) // 2:
        return None
    return {
        name: {which: count_scores(entry.plain(), crops.people).figures() for which, entry in by_model.items()}
        for name, by_model in crops.embeddings.items()
    }


def measure_resolutions(
    inputs: Inputs, models: Models, measured: Measured
) -> tuple[Resolutions | None, dict[str, list[str]]]:
    """Figures of each size, on at most as many photographs as a probe takes, and ids of some of them by size."""
    if not inputs.has_low_resolution:
        return None, {}
    photographs, seed = inputs.photographs, inputs.options.seed
    fixed = fixed_thresholds(measured.crops, measured.compared, inputs.options.fmr)
    wanted = choose_images(photographs.people, seed)
    sides = None
    if photographs.pairs is not None:
        names = list(wanted)
        sides = dict(zip(names, native_sides(photographs.table, names).tolist(), strict=True))
    sized = embed_sizes(models, photographs.views(wanted), wanted, inputs.options.sides(), inputs.enlarger, sides)
    resolutions = measure_sizes(sized, measured.far, inputs.bootstrap, fixed)
    rows = {row.size for row in resolutions.rows} - {CLEAN}
    shown = {
        size.name: [sized.ids[index] for index in size.images[:SHOWN_OF_SIZE]]
        for size in sized.sizes
        if size.name in rows
    }
    return resolutions, shown
