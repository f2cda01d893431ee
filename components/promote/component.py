"""KFP interfaces of promote and champion."""

from typing import NamedTuple

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

    from kubeface.promote.step import promote as run
    from kubeface.runtime.process import run_component, use_stores

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
def champion(
    models: str,
    name: str,
    only_if_changed: bool = False,
    s3_endpoint: str = "",
) -> NamedTuple("Champion", [("uri", str), ("trained", str)]):  # type: ignore[valid-type]  # kfp's way
    """The model that is in force.

    Returns:
        uri: of its folder, for evaluate to compare with; empty where there is none yet.
        trained: the same, for audit to ask what it was trained on; empty where that does not matter, so that a
            promotion leaves what is cached of the audit, and of all behind it, as it is.
    """
    from kubeface.promote.champion import find_champion
    from kubeface.runtime.errors import exit_on_error
    from kubeface.runtime.process import use_stores

    use_stores(s3_endpoint)
    uri = exit_on_error(find_champion, destination=models, name=name)
    return uri, uri if only_if_changed else ""
