"""KFP interface of report, and of keep, which tells a run that trained nothing."""

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/report:0.1.0", install_kfp_package=False)
def report(
    gathered: dsl.Input[dsl.Artifact],
    aligned: dsl.Input[dsl.Dataset],
    filtered: dsl.Input[dsl.Dataset],
    audited: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    promotion: dsl.Input[dsl.Artifact],
    gather_metrics: dsl.Input[dsl.Metrics],
    audit_metrics: dsl.Input[dsl.Metrics],
    split_metrics: dsl.Input[dsl.Metrics],
    finetune_metrics: dsl.Input[dsl.Metrics],
    evaluate_metrics: dsl.Input[dsl.Metrics],
    promote_metrics: dsl.Input[dsl.Metrics],
    html: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    pipeline: str = "face-finetuning",
    seed: int = 0,
    scratch_model: dsl.Input[dsl.Model] = None,
    scratch_metrics: dsl.Input[dsl.Metrics] = None,
) -> str:
    """One page for people and one JSON file for programs, from what all steps left.

    Returns:
        where html, summary and model are, as JSON: which of two branches ran, parameters alone can tell.
    """
    import json
    from pathlib import Path

    from kubeface.report.step import report as run
    from kubeface.runtime.process import run_component

    run_component(
        metrics,
        run,
        gathered=Path(gathered.path),
        aligned=Path(aligned.path),
        filtered=Path(filtered.path),
        audited=Path(audited.path),
        split=Path(divided.path),
        model=Path(model.path),
        evaluation=Path(evaluation.path),
        promotion=Path(promotion.path),
        gather_metrics=Path(gather_metrics.path),
        audit_metrics=Path(audit_metrics.path),
        split_metrics=Path(split_metrics.path),
        finetune_metrics=Path(finetune_metrics.path),
        evaluate_metrics=Path(evaluate_metrics.path),
        promote_metrics=Path(promote_metrics.path),
        html=Path(html.path),
        summary=Path(summary.path),
        pipeline=pipeline,
        seed=seed,
        scratch_model=Path(scratch_model.path) if scratch_model else None,
        scratch_metrics=Path(scratch_metrics.path) if scratch_metrics else None,
    )
    return json.dumps({"html": html.uri, "summary": summary.uri, "model": model.uri})


@dsl.component(base_image="localhost/kubeface/report:0.1.0", install_kfp_package=False)
def keep(
    gathered: dsl.Input[dsl.Artifact],
    audited: dsl.Input[dsl.Dataset],
    html: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    champion: str = "",
    pipeline: str = "face-finetuning",
    seed: int = 0,
) -> str:
    """Says that the data have not changed, or not drifted enough, for another training.

    Returns:
        where html, summary and the promoted model are, which stays, as JSON; model is empty where none is promoted.
    """
    import json
    from pathlib import Path

    from kubeface.report.keep import keep as run
    from kubeface.runtime.process import run_component

    run_component(
        metrics,
        run,
        gathered=Path(gathered.path),
        audited=Path(audited.path),
        html=Path(html.path),
        summary=Path(summary.path),
        champion=champion,
        pipeline=pipeline,
        seed=seed,
    )
    return json.dumps({"html": html.uri, "summary": summary.uri, "model": champion})
