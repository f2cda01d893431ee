"""Options of notify."""

from kubeface.runtime.options import Options


class NotifyOptions(Options):
    """What the message about a run holds."""

    title: str = ""
    """What people call the run; empty for its identifier."""
    ui: str = ""
    """Address of the Kubeflow Pipelines UI, for a link to the run; empty for no link."""
