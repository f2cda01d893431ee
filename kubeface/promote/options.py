"""Options of promote."""

from typing import Annotated

from pydantic import Field

from kubeface.runtime.options import Options


class PromoteOptions(Options):
    """Where a better model is published, and under which name."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$")] = "face-model"
    """Name of the model: letters, digits, - and _."""
    destination: str = ""
    """Where models are kept: s3://bucket/models or a folder. Required."""
    model_registry: str = ""
    """URL of a Kubeflow Model Registry to register the version in; empty for none."""
    mlflow: str = ""
    """Tracking URI of an MLflow server to register the version in; empty for none."""
