"""KFP interface of align."""

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/align:0.1.0", install_kfp_package=False)
def align(
    faces: dsl.Input[dsl.Dataset],
    aligned: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    shard: str = "0/1",
    detector: str = "mtcnn",
    min_face_size: int = 20,
    min_confidence: float = 0.9,
    template: str = "arcface_112",
) -> str:
    """Finds the largest face nearest the centre and makes a crop of it."""
    from pathlib import Path

    from kubeface.align.step import align as run
    from kubeface.runtime.process import run_shard

    return run_shard(
        shard,
        aligned,
        metrics,
        run,
        faces=Path(faces.path),
        out=Path(aligned.path),
        detector=detector,
        min_face_size=min_face_size,
        min_confidence=min_confidence,
        template=template,
    )
