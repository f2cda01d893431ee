"""KFP interface of notify."""

from typing import Any

from components.interface import component


@component("notify")
def notify(options: dict[str, Any], models: str, name: str, run: str, title: str) -> None:
    """Posts to a webhook whether the run succeeded, and its verdict."""
    from kubeface.notify.options import NotifyOptions
    from kubeface.notify.step import notify
    from kubeface.runtime.errors import exit_on_error
    from kubeface.runtime.options import read_options

    settings = read_options(NotifyOptions, options | {"title": title}, "notify.")
    exit_on_error(notify, models, name, run, settings)
