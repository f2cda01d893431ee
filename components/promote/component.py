"""KFP interfaces of promote and champion."""

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/promote:0.1.0", install_kfp_package=False)
def promote(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    gathered: dsl.Input[dsl.Artifact],
    audited: dsl.Input[dsl.Dataset],
    promotion: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    name: str,
    destination: str,
    champion: str = "",
    model_registry: str = "",
    mlflow: str = "",
    s3_endpoint: str = "",
) -> None:
    """Writes the model to the store of models, and makes it the champion, if the gate found it better."""
    from pathlib import Path

    from components.faces.runtime import run_component, use_stores
    from components.promote.step import promote as run

    use_stores(s3_endpoint)
    run_component(
        metrics,
        run,
        model=Path(model.path),
        evaluation=Path(evaluation.path),
        gathered=Path(gathered.path),
        audited=Path(audited.path),
        out=Path(promotion.path),
        name=name,
        destination=destination,
        champion=champion,
        model_registry=model_registry,
        mlflow=mlflow,
    )


@dsl.component(base_image="localhost/kubeface/promote:0.1.0", install_kfp_package=False)
def champion(models: str, name: str, s3_endpoint: str = "") -> str:
    """The URI of the model that is in force, for evaluate to compare with; empty where there is none yet."""
    from components.faces.runtime import guarded, use_stores
    from components.promote.champion import find_champion

    use_stores(s3_endpoint)
    return guarded(find_champion, destination=models, name=name)
