"""KFP interface of finetune."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/finetune:0.1.0", install_kfp_package=False)
def finetune(
    aligned: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    backbone: str = "sface",
    pretrained: str = "",
    degradation: str = "none",
    recipe: str = "",
    settings: dict[str, Any] = {},  # noqa: B006 - KFP wants the default as it is
    checkpoints: str = "",
    resume: str = "",
    device: str = "auto",
    workers: int = -1,
    seed: int = 0,
    task: str = "recognition",
    labels: str = "",
    fallback: str = "",
    superresolver: str = "bicubic",
    s3_endpoint: str = "",
    weights_mirror: str = "",
    num_nodes: int = 1,
    node_resources: dict[str, Any] = {},  # noqa: B006
    training_runtime: str = "torch-distributed",
) -> None:
    """Fine-tunes a model on the training images of a split; on several GPUs or nodes where there are."""
    from pathlib import Path

    from kubeface.finetune.launch import Nodes, launch
    from kubeface.runtime.process import run_component, use_stores

    use_stores(s3_endpoint, weights_mirror)
    run_component(
        metrics,
        launch,
        nodes=Nodes(num_nodes, node_resources, training_runtime, aligned.uri, divided.uri, model.uri),
        aligned=Path(aligned.path),
        split=Path(divided.path),
        out=Path(model.path),
        backbone=backbone,
        pretrained=pretrained,
        degradation=degradation,
        recipe=recipe,
        settings=settings,
        checkpoints=checkpoints,
        resume=resume,
        device=device,
        workers=workers,
        seed=seed,
        task=task,
        labels=labels,
        fallback=fallback,
        superresolver=superresolver,
    )
