"""The figures of a run for summary.json."""

import platform
from collections import Counter
from typing import assert_never

from kubeface import __version__
from kubeface.records.evaluation import AttributesEvaluation, ClassesEvaluation, RecognitionEvaluation, SetFigures
from kubeface.records.summary import (
    AttributesSummary,
    ClassesSummary,
    DatasetSummary,
    GateSummary,
    ModelSummary,
    RecognitionSummary,
    SummaryRecord,
)
from kubeface.report.run import Run

# Entries of the training that stand elsewhere or name files of one run.
NOT_SETTINGS = ("aligned", "split", "start_sha256", "versions", "onnx", "guard", "wise_ft_scores")


def summarise(run: Run) -> SummaryRecord:
    """The figures of a run; nothing in them but seconds differs between equal runs."""
    evaluation, training = run.evaluation, run.model.training
    shared = SummaryRecord(
        pipeline=run.pipeline,
        task=evaluation.task,
        seed=run.seed,
        trained=run.promotion.trained,
        reason=None if run.promotion.trained else f"not trained: {run.promotion.reason}",
        steps=run.steps,
        dataset=_dataset(run),
        degradation=evaluation.degradation,
        baseline=_figures(run, "baseline"),
        finetuned=_figures(run, "finetuned"),
        gain=evaluation.gain,
        gain_over_champion=evaluation.gain_over_champion,
        gate=GateSummary(
            promoted=run.promotion.promoted,
            promotion_reason=run.promotion.reason,
            better=evaluation.gate.better,
            reason=evaluation.gate.reason,
            checks=evaluation.gate.checks,
        ),
        model=ModelSummary(
            uri=run.promotion.uri,
            version=run.promotion.version,
            backbone=run.model.backbone,
            weights_sha256=run.model.weights_sha256,
        ),
        settings=dict(sorted(training.entries(leave_out=NOT_SETTINGS).items())),
        versions={"python": platform.python_version(), "kubeface": __version__} | dict(training.versions),
    )
    return _with_task(run, shared)


def _with_task(run: Run, shared: SummaryRecord) -> SummaryRecord:
    match run.evaluation:
        case RecognitionEvaluation() as evaluation:
            return RecognitionSummary(
                **dict(shared),
                paired=evaluation.paired,
                probes=evaluation.probes or [],
                identification=evaluation.identification,
                calibration=evaluation.calibration,
                compatibility=evaluation.compatibility,
                groups={name: column.worst_ratio for name, column in evaluation.groups.items()},
                low_resolution=evaluation.low_resolution,
                resolutions=evaluation.resolutions,
            )
        case AttributesEvaluation() as evaluation:
            return AttributesSummary(
                **dict(shared),
                labels=evaluation.labels,
                thresholds=evaluation.thresholds,
                chosen_on=evaluation.chosen_on,
                sampling=evaluation.sampling,
            )
        case ClassesEvaluation() as evaluation:
            return ClassesSummary(
                **dict(shared),
                labels=evaluation.labels,
                chosen_on=evaluation.chosen_on,
                sampling=evaluation.sampling,
                gain_over_scratch=evaluation.gain_over_scratch,
                scratch=_figures(run, "scratch") or None,
            )
        case _ as unreachable:
            assert_never(unreachable)


def _figures(run: Run, model: str) -> SetFigures:
    """A model's figures by set, without confusion matrices, which grow with the square of the classes."""
    return {
        name: figures.model_dump(mode="json", exclude={"confusion"})
        for name, figures in run.evaluation.figures_of(model).items()
    }


def _dataset(run: Run) -> DatasetSummary:
    rejected: Counter[str] = Counter()
    for counts in run.data.rejected.values():
        rejected.update(counts)
    return DatasetSummary(
        images=run.data.images,
        identities=run.data.identities,
        shards=len(run.data.shards),
        changed_shards=run.data.changed_shards,
        forgotten=run.data.erasure.files_left_out,
        duplicates=run.findings.counts.duplicates,
        suspects=run.findings.counts.suspects,
        leaks=run.findings.counts.leaks,
        drift=run.findings.drift,
        rejected=rejected.total(),
        rejected_by_reason=dict(rejected),
        heldout_identities=run.people_in("heldout"),
        train_identities=run.people_in("train"),
    )
