"""python -m pipelines.cluster.manifests: an overlay of manifests/ as it is deployed, on standard output."""

import argparse
import sys
from pathlib import Path

import yaml

from kubeface.runtime.errors import KubefaceError
from pipelines.build.images import RECORD, read_images
from pipelines.build.pinning import pin
from pipelines.cluster.deploy import find_overlay, render
from pipelines.cluster.kubectl import Kubectl


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.cluster.manifests", description=__doc__)
    parser.add_argument("--overlay", required=True, help="dev, existing, multi-user, or a folder")
    parser.add_argument("--namespace", default="", help="to put it into (the overlay's own)")
    parser.add_argument("--images", type=Path, default=RECORD, help="the images that were pushed (%(default)s)")
    settings = parser.parse_args()
    try:
        objects = render(Kubectl(), find_overlay(settings.overlay), settings.namespace)
        images = read_images(settings.images) if settings.images.exists() else {}
        print(yaml.safe_dump_all(pin(objects, images), sort_keys=False), end="")
    except KubefaceError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
