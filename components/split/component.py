"""KFP interface of split."""

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/split:0.1.0", install_kfp_package=False)
def split(
    aligned: dsl.Input[dsl.Dataset],
    filtered: dsl.Input[dsl.Dataset],
    audited: dsl.Input[dsl.Dataset],
    divided: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    apply_filter: str = "validation",
    heldout_fraction: float = 0.33,
    val_fraction: float = 0.2,
    val_people_fraction: float = 0.0,
    min_images: int = 2,
    seed: int = 0,
    task: str = "recognition",
    unknown_fraction: float = 0.0,
) -> None:
    """Divides people into trained and held out, and the trained people's images into train and val."""
    from pathlib import Path

    from kubeface.runtime.process import run_component
    from kubeface.split.step import split as run

    run_component(
        metrics,
        run,
        aligned=Path(aligned.path),
        filtered=Path(filtered.path),
        audited=Path(audited.path),
        out=Path(divided.path),
        apply_filter=apply_filter,
        heldout_fraction=heldout_fraction,
        val_fraction=val_fraction,
        val_people_fraction=val_people_fraction,
        min_images=min_images,
        seed=seed,
        task=task,
        unknown_fraction=unknown_fraction,
    )
