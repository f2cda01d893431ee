"""KFP interfaces of conclude, the last step of a run, and of notify, which tells how a run ended."""

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/notify:0.1.0", install_kfp_package=False)
def conclude(left: str, models: str, name: str, run: str, s3_endpoint: str = "") -> str:
    """Writes what the run came to beside its models.

    Returns:
        `left` as it is, so that what a run hands out is there when the run is done.
    """
    from kubeface.notify.step import conclude as action
    from kubeface.runtime.errors import exit_on_error
    from kubeface.runtime.process import use_stores

    use_stores(s3_endpoint)
    exit_on_error(action, left=left, models=models, name=name, run=run)
    return left


@dsl.component(base_image="localhost/kubeface/notify:0.1.0", install_kfp_package=False)
def notify(models: str, name: str, run: str, title: str = "", ui: str = "", s3_endpoint: str = "") -> None:
    """Tells a webhook whether the run succeeded, and its verdict."""
    from kubeface.notify.step import notify as action
    from kubeface.runtime.errors import exit_on_error
    from kubeface.runtime.process import use_stores

    use_stores(s3_endpoint)
    exit_on_error(action, models=models, name=name, run=run, title=title, ui=ui)
