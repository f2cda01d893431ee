"""Options of report."""

from kubeface.runtime.options import Options, Seed


class ReportOptions(Options):
    """What the report says of its run."""

    pipeline: str = "face-finetuning"
    """Name of the pipeline, the title of the page."""
    seed: Seed = 0
    """Seed of the run."""
