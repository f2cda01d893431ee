"""A mirror of published weights, for clusters without internet (KUBEFACE_WEIGHTS_MIRROR)."""

from collections.abc import Sequence

from kubeface.models.backbones import BACKBONES, Backbone, backbone_named
from kubeface.models.weights import fetch_published
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from kubeface.storage.downloads import mirrored, split_checksum


def mirror_weights(mirror: str, *, backbone: Sequence[str] = ()) -> None:
    """Copies published weights to where KUBEFACE_WEIGHTS_MIRROR has them fetched from, and prints a line for each.

    Args:
        mirror: s3://bucket/prefix or folder; a file becomes `<mirror>/<sha256>/<file name>` unless it is there.
        backbone: Copy only the weights of this one (may be given several times). Without it all are copied but those
            that nobody can fetch, which are skipped.

    Raises:
        KubefaceError: a name is unknown, or weights could not be copied; the others are copied all the same.
    """
    failed = []
    for known in [backbone_named(name) for name in backbone] or BACKBONES.values():
        try:
            outcome = _mirror(mirror, known)
        except KubefaceError as error:
            skipped = not backbone and not any(mirrored(source, mirror) for source in known.sources)
            failed += [] if skipped else [known.name]
            outcome = f"{'left out' if skipped else 'failed'}: {error}"
        print(f"{known.name}: {outcome}", flush=True)
    require(not failed, f"{mirror} lacks the weights of {', '.join(failed)}: see the lines above")


def _mirror(mirror: str, backbone: Backbone) -> str:
    """Copies one backbone's weights; returns what was done."""
    for source in backbone.sources:
        if (copy := mirrored(source, mirror)) and _exists(split_checksum(copy)[0]):
            return f"there already, {split_checksum(copy)[0]}"
    path, source = fetch_published(backbone)
    copy = mirrored(source, mirror)
    if copy is None:
        raise KubefaceError(f"{source} has no checksum, which a mirror goes by: write it with #sha256=<64 hex digits>")
    objects.upload(path, split_checksum(copy)[0])
    return f"copied to {split_checksum(copy)[0]}"


def _exists(uri: str) -> bool:
    if not objects.is_s3(uri):
        return objects.local_path(uri).is_file()
    folder, _, name = uri.rpartition("/")
    return any(file.name == name for file in objects.list_files(folder))
