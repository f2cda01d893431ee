"""KFP interface of filter."""

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/filter:0.1.0", install_kfp_package=False)
def filter_faces(
    faces: dsl.Input[dsl.Dataset],
    aligned: dsl.Input[dsl.Dataset],
    filtered: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    shard: str = "0/1",
    min_score: float = 0.9,
    min_face_size: float = 20.0,
    max_faces: int = 0,
    min_sharpness: float = 20.0,
    max_turn: float = 0.97,
    min_agreement: float = 0.5,
) -> str:
    """Scores every aligned image with RetinaFace and says which to keep."""
    from pathlib import Path

    from kubeface.filter.step import filter_faces as run
    from kubeface.runtime.process import run_shard

    return run_shard(
        shard,
        filtered,
        metrics,
        run,
        faces=Path(faces.path),
        aligned=Path(aligned.path),
        out=Path(filtered.path),
        min_score=min_score,
        min_face_size=min_face_size,
        max_faces=max_faces,
        min_sharpness=min_sharpness,
        max_turn=max_turn,
        min_agreement=min_agreement,
    )
