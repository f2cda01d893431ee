"""KFP interface of finetune."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/finetune:0.1.0", install_kfp_package=False)
def finetune(
    aligned: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
    nodes: dict[str, Any] = {},  # noqa: B006
    champion: str = "",
    decision: str = "train",
) -> None:
    """Fine-tunes."""
    from pathlib import Path
    from kubeface.finetune.step import finetune as run
    from kubeface.runtime.process import run_component
    from kubeface.finetune.settings import Settings

    own = {
        k: options[k]
        for k in "backbone pretrained fallback degradation checkpoints resume device workers seed task labels superresolver".split()
    }
    own["workers"], own["seed"] = int(own["workers"]), int(own["seed"])
    settings = {
        k: v
        for k, v in options.items()
        if k in Settings.model_fields
        and v
        != (
            Settings.model_fields[k].default
            if not isinstance(Settings.model_fields[k].default, tuple)
            else list(Settings.model_fields[k].default)
        )
    }
    run_component(
        metrics,
        run,
        aligned=Path(aligned.path),
        split=Path(divided.path),
        out=Path(model.path),
        settings=settings,
        **own,
    )
