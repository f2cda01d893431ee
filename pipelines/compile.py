"""python -m pipelines.compile: the pipeline as KFP's intermediate representation, ready to upload."""

import argparse
import re
from pathlib import Path

from kfp import compiler

from components.faces.runtime import VERSION
from pipelines.face_finetuning import face_finetuning

REGISTRY = "localhost/kubeface"


def compile_pipeline(path: Path, registry: str = REGISTRY, tag: str = VERSION) -> None:
    """Writes the pipeline to a YAML file whose steps run the images `<registry>/<step>:<tag>`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(face_finetuning, str(path))
    text = path.read_text("utf-8")
    path.write_text(
        re.sub(rf"image: {REGISTRY}/(\w+):{re.escape(VERSION)}", rf"image: {registry}/\1:{tag}", text), "utf-8"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compile", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("build/face-finetuning.yaml"), help="file to write (%(default)s)"
    )
    parser.add_argument("--registry", default=REGISTRY, help="registry and prefix of the images (%(default)s)")
    parser.add_argument("--tag", default=VERSION, help="tag of the images (%(default)s)")
    settings = parser.parse_args()
    compile_pipeline(settings.out, settings.registry, settings.tag)
    print(f"wrote {settings.out}")


if __name__ == "__main__":
    main()
