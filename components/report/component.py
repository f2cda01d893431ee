"""KFP interface of report."""

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/report:0.1.0", install_kfp_package=False)
def report(
    faces: dsl.Input[dsl.Dataset],
    aligned: dsl.Input[dsl.Dataset],
    filtered: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    promotion: dsl.Input[dsl.Artifact],
    ingest_metrics: dsl.Input[dsl.Metrics],
    align_metrics: dsl.Input[dsl.Metrics],
    filter_metrics: dsl.Input[dsl.Metrics],
    split_metrics: dsl.Input[dsl.Metrics],
    finetune_metrics: dsl.Input[dsl.Metrics],
    evaluate_metrics: dsl.Input[dsl.Metrics],
    promote_metrics: dsl.Input[dsl.Metrics],
    html: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    pipeline: str = "face-finetuning",
    seed: int = 0,
) -> None:
    """One page for people and one JSON file for programs, from what all steps left."""
    from pathlib import Path

    from components.faces.runtime import run_component
    from components.report.step import report as run

    run_component(
        metrics,
        run,
        faces=Path(faces.path),
        aligned=Path(aligned.path),
        filtered=Path(filtered.path),
        split=Path(divided.path),
        model=Path(model.path),
        evaluation=Path(evaluation.path),
        promotion=Path(promotion.path),
        ingest_metrics=Path(ingest_metrics.path),
        align_metrics=Path(align_metrics.path),
        filter_metrics=Path(filter_metrics.path),
        split_metrics=Path(split_metrics.path),
        finetune_metrics=Path(finetune_metrics.path),
        evaluate_metrics=Path(evaluate_metrics.path),
        promote_metrics=Path(promote_metrics.path),
        html=Path(html.path),
        summary=Path(summary.path),
        pipeline=pipeline,
        seed=seed,
    )
