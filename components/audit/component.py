"""KFP interface of audit."""

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/audit:0.1.0", install_kfp_package=False)
def audit(
    aligned: dsl.Input[dsl.Dataset],
    filtered: dsl.Input[dsl.Dataset],
    audited: dsl.Output[dsl.Dataset],
    html: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    evaluation_sets: str = "",
    previous: str = "",
    on_leak: str = "drop",
    suspects: str = "keep",
    duplicates: str = "group",
    max_drift: float = 0.0,
    on_drift: str = "warn",
    champion: str = "",
    duplicate_bits: int = 3,
    duplicate_cosine: float = 0.7,
    same_cosine: float = 0.97,
    far_below: float = 0.25,
    alike_above: float = 0.65,
    leak_above: float = 0.6,
    image_above: float = 0.55,
    s3_endpoint: str = "",
    seed: int = 0,
    task: str = "recognition",
) -> str:
    """Looks for duplicates, wrong labels, people of the evaluation sets, and drift; data.json lies in `audited`.

    Returns:
        train, or keep where the data have not drifted enough, or not changed at all, for another training.
    """
    from pathlib import Path

    from kubeface.audit.step import audit as run
    from kubeface.runtime.process import run_component, use_stores

    use_stores(s3_endpoint)
    figures = run_component(
        metrics,
        run,
        aligned=Path(aligned.path),
        filtered=Path(filtered.path),
        out=Path(audited.path),
        html=Path(html.path),
        evaluation_sets=evaluation_sets,
        previous=previous,
        on_leak=on_leak,
        suspects=suspects,
        duplicates=duplicates,
        max_drift=max_drift,
        on_drift=on_drift,
        champion=champion,
        duplicate_bits=duplicate_bits,
        duplicate_cosine=duplicate_cosine,
        same_cosine=same_cosine,
        far_below=far_below,
        alike_above=alike_above,
        leak_above=leak_above,
        image_above=image_above,
        seed=seed,
        task=task,
    )
    return "train" if figures["train"] else "keep"
