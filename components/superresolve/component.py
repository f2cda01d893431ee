"""KFP interface of superresolve: enlarging, and the training of what enlarges."""

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/superresolve:0.1.0", install_kfp_package=False)
def superresolve(
    faces: dsl.Input[dsl.Dataset],
    enlarged: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    shard: str = "0/1",
    model: str = "bicubic",
    scale: int = 0,
    which: str = "low",
    max_side: int = 0,
    s3_endpoint: str = "",
    weights_mirror: str = "",
) -> str:
    """Enlarges images of few pixels, by a super-resolution network or bicubic interpolation."""
    from pathlib import Path

    from kubeface.runtime.process import run_shard, use_stores
    from kubeface.superresolve.step import superresolve as run

    use_stores(s3_endpoint, weights_mirror)
    return run_shard(
        shard,
        enlarged,
        metrics,
        run,
        faces=Path(faces.path),
        out=Path(enlarged.path),
        model=model,
        scale=scale,
        which=which,
        max_side=max_side,
    )


@dsl.component(base_image="localhost/kubeface/superresolve:0.1.0", install_kfp_package=False)
def train_superresolution(
    aligned: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    network: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    architecture: str = "edsr",
    scale: int = 8,
    channels: int = 48,
    blocks: int = 8,
    backbone: str = "sface",
    pretrained: str = "",
    identity_weight: float = 0.1,
    epochs: int = 10,
    batch_size: int = 32,
    lr: float = 5e-4,
    amp: str = "auto",
    device: str = "auto",
    seed: int = 0,
    s3_endpoint: str = "",
    weights_mirror: str = "",
) -> None:
    """Trains a super-resolution network on the people who are trained on, by their pixels and their identity."""
    from pathlib import Path

    from kubeface.runtime.process import run_component, use_stores
    from kubeface.superresolve.training import train_superresolution as run

    use_stores(s3_endpoint, weights_mirror)
    run_component(
        metrics,
        run,
        aligned=Path(aligned.path),
        split=Path(divided.path),
        out=Path(network.path),
        architecture=architecture,
        scale=scale,
        channels=channels,
        blocks=blocks,
        backbone=backbone,
        pretrained=pretrained,
        identity_weight=identity_weight,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        amp=amp,
        device=device,
        seed=seed,
    )
