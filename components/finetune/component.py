"""KFP interface of finetune."""

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/finetune:0.1.0", install_kfp_package=False)
def finetune(
    aligned: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    backbone: str = "sface",
    pretrained: str = "",
    head: str = "arcface",
    scale: float = 64.0,
    margin: float = -1.0,
    degradation: str = "none",
    distill: float = 20.0,
    head_epochs: int = 1,
    head_lr: float = 1e-3,
    epochs: int = 8,
    lr: float = 1e-4,
    optimizer: str = "adamw",
    weight_decay: float = 5e-4,
    batch_size: int = 32,
    flip: float = 0.5,
    jitter: float = 0.2,
    freeze_batch_norm: bool = True,
    patience: int = 5,
    amp: str = "auto",
    device: str = "auto",
    workers: int = 0,
    seed: int = 0,
    s3_endpoint: str = "",
) -> None:
    """Trains the head on the frozen backbone, then everything with a smaller rate on a cosine schedule."""
    from pathlib import Path

    from components.faces.runtime import run_component, use_endpoint
    from components.finetune.step import finetune as run

    use_endpoint(s3_endpoint)
    run_component(
        metrics,
        run,
        aligned=Path(aligned.path),
        split=Path(divided.path),
        out=Path(model.path),
        backbone=backbone,
        pretrained=pretrained,
        head=head,
        scale=scale,
        margin=margin,
        degradation=degradation,
        distill=distill,
        head_epochs=head_epochs,
        head_lr=head_lr,
        epochs=epochs,
        lr=lr,
        optimizer=optimizer,
        weight_decay=weight_decay,
        batch_size=batch_size,
        flip=flip,
        jitter=jitter,
        freeze_batch_norm=freeze_batch_norm,
        patience=patience,
        amp=amp,
        device=device,
        workers=workers,
        seed=seed,
    )
