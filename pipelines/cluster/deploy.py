"""The commands `deploy` and `undeploy`: an overlay of manifests/ and the compiled pipelines, put on a cluster."""

from pathlib import Path

from kubeface.runtime.errors import require
from pipelines.build.catalogue import TASKS, package_of
from pipelines.build.images import RECORD
from pipelines.cluster.client import Cluster, connect
from pipelines.cluster.deployment import apply_objects, delete_objects, difference
from pipelines.cluster.manifests import find_overlay, namespace_of, render, render_pinned
from pipelines.cluster.versions import find_version, read_package, upload


def deploy(
    *,
    overlay: str = "dev",
    namespace: str = "",
    images: Path = RECORD,
    pipeline: str = "",
    package: tuple[Path, ...] = (),
    dry_run: bool = False,
    force: bool = False,
) -> None:
    """Puts an overlay and the compiled pipelines on the cluster.

    Args:
        overlay: Name below manifests/overlays, or a folder.
        namespace: Namespace to use instead of the overlay's own.
        images: Digests of the images, as `kubeface push` records them.
        pipeline: Name of the one pipeline to upload; all in build/ where empty.
        package: Compiled pipeline to upload instead, may be repeated.
        dry_run: Show what would change, and change nothing.
        force: Take over fields that another field manager owns.
    """
    cluster = Cluster.from_environment()
    kubectl, folder = cluster.kubectl(), find_overlay(overlay)
    named = [package_of(pipeline)] if pipeline else [path for path in map(package_of, TASKS) if path.is_file()]
    paths = list(package) or named
    require(bool(paths), "no compiled pipeline is in build/: run 'make compile'")
    packages = [read_package(path) for path in paths]
    objects = render_pinned(kubectl, folder, namespace, images)
    cluster = cluster.model_copy(update={"namespace": namespace_of(objects)})
    # Connected to first, so that nothing is half done where Kubeflow Pipelines is out of reach.
    with connect(cluster) as client:
        if dry_run:
            print(*difference(kubectl, objects, force), sep="\n")
            for one in packages:
                known = find_version(client, one)
                print(f"pipeline {one.version} {'is there already' if known else 'would be uploaded'}")
            return
        print(*apply_objects(kubectl, objects, force).lines(), sep="\n")
        for one in packages:
            print(f"pipeline {one.version} {'uploaded' if upload(client, one).is_new else 'is there already'}")


def undeploy(*, overlay: str = "dev", namespace: str = "", with_data: bool = False) -> None:
    """Deletes what `deploy` made, but no data. Pipelines, runs and schedules stay.

    Args:
        overlay: Name below manifests/overlays, or a folder.
        namespace: Namespace to use instead of the overlay's own.
        with_data: Delete volume claims, secrets and the namespace too: the data in them is gone.
    """
    kubectl, folder = Cluster.from_environment().kubectl(), find_overlay(overlay)
    print(*delete_objects(kubectl, namespace or namespace_of(render(kubectl, folder)), with_data), sep="\n")
