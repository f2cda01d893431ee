"""KFP interface of evaluate: one component for each task."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/evaluate:0.1.0", install_kfp_package=False)
def evaluate(
    aligned: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
    degradation: str = "none",
    lfw_archive: str = "",
    lfw_pairs: str = "",
    pairs: str = "",
    bin_sets: str = "",
    probes: str = "all",
    fmr: float = 0.001,
    gate: dict[str, Any] = {},  # noqa: B006 - KFP wants the default as it is
    champion: str = "",
    max_pairs: int = 1_000_000,
    bootstrap: int = 1000,
    device: str = "auto",
    seed: int = 0,
    superresolver: str = "",
    sizes: str = "10 14 20",
    s3_endpoint: str = "",
    weights_mirror: str = "",
) -> None:
    """Compares the fine-tuned model with its starting model, and the promoted one, on held-out people and more."""
    from pathlib import Path

    from kubeface.evaluate.step import evaluate as run
    from kubeface.evaluate.step import log_roc
    from kubeface.runtime.process import run_component, use_stores

    use_stores(s3_endpoint, weights_mirror)
    run_component(
        metrics,
        run,
        aligned=Path(aligned.path),
        split=Path(divided.path),
        model=Path(model.path),
        out=Path(evaluation.path),
        degradation=degradation,
        lfw_archive=lfw_archive,
        lfw_pairs=lfw_pairs,
        pairs=pairs,
        bin_sets=bin_sets,
        probes=probes,
        fmr=fmr,
        gate=gate,
        champion=champion,
        max_pairs=max_pairs,
        bootstrap=bootstrap,
        device=device,
        seed=seed,
        superresolver=superresolver,
        sizes=sizes,
    )
    log_roc(roc, Path(evaluation.path))


@dsl.component(base_image="localhost/kubeface/evaluate:0.1.0", install_kfp_package=False)
def evaluate_attributes(
    aligned: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    degradation: str = "none",
    gate: dict[str, Any] = {},  # noqa: B006
    champion: str = "",
    bootstrap: int = 1000,
    device: str = "auto",
    seed: int = 0,
    s3_endpoint: str = "",
    weights_mirror: str = "",
) -> None:
    """Compares a model of many labels with its features before fine-tuning, and the promoted one."""
    from pathlib import Path

    from kubeface.evaluate.attributes import evaluate_attributes as run
    from kubeface.runtime.process import run_component, use_stores

    use_stores(s3_endpoint, weights_mirror)
    run_component(
        metrics,
        run,
        aligned=Path(aligned.path),
        split=Path(divided.path),
        model=Path(model.path),
        out=Path(evaluation.path),
        degradation=degradation,
        gate=gate,
        champion=champion,
        bootstrap=bootstrap,
        device=device,
        seed=seed,
    )


@dsl.component(base_image="localhost/kubeface/evaluate:0.1.0", install_kfp_package=False)
def evaluate_classes(
    aligned: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    scratch: dsl.Input[dsl.Model] = None,
    degradation: str = "none",
    refuse: float = 0.05,
    gate: dict[str, Any] = {},  # noqa: B006
    champion: str = "",
    bootstrap: int = 1000,
    device: str = "auto",
    seed: int = 0,
    s3_endpoint: str = "",
    weights_mirror: str = "",
) -> None:
    """Compares a classifier with its features before fine-tuning, one from scratch, and the promoted one."""
    from pathlib import Path

    from kubeface.evaluate.classes import evaluate_classes as run
    from kubeface.runtime.process import run_component, use_stores

    use_stores(s3_endpoint, weights_mirror)
    run_component(
        metrics,
        run,
        aligned=Path(aligned.path),
        split=Path(divided.path),
        model=Path(model.path),
        out=Path(evaluation.path),
        scratch=Path(scratch.path) if scratch else None,
        degradation=degradation,
        refuse=refuse,
        gate=gate,
        champion=champion,
        bootstrap=bootstrap,
        device=device,
        seed=seed,
    )
