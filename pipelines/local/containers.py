"""A demo in the steps' real containers, through kfp.local's DockerRunner."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import docker
import docker.errors
from kfp import local
from kfp.local import docker_task_handler

from kubeface.runtime.errors import KubefaceError, require
from pipelines.build.catalogue import FACE_FINETUNING, load, restored
from pipelines.build.compile import images_in
from pipelines.build.images import HANDED_ON, RECORD, USER, Images, find_engine, read_images
from pipelines.local import demo

SERVICE_SECONDS = 30  # for podman's service to answer
Volumes = dict[str, dict[str, str]]  # by folder of this machine, as Docker's API takes them: bind and mode
SHARED_MEMORY = "1g"  # /dev/shm, in which DataLoader workers hand batches over; an engine's default is 64 MB


@contextmanager
def engine_api(engine: str) -> Iterator[None]:
    """The engine's Docker API at DOCKER_HOST while the block lasts: docker's own, or podman's from a service that is
    started here. Raises KubefaceError if podman's service does not answer."""
    if engine == "docker":
        yield
        return
    with tempfile.TemporaryDirectory(prefix="kubeface-podman-") as folder:
        socket = Path(folder, "podman.sock")
        address = f"unix://{socket}"
        service = subprocess.Popen(
            ["podman", "system", "service", "--time=0", address], stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            end = time.monotonic() + SERVICE_SECONDS
            while not socket.exists():
                running = service.poll() is None and time.monotonic() < end
                require(running, f"podman's service did not start: try 'podman system service {address}'")
                time.sleep(0.1)
            with patch.dict(os.environ, DOCKER_HOST=address):
                yield
        finally:
            service.terminate()
            service.wait()


@contextmanager
def in_containers(images: Images, engine: str, pipeline: str = FACE_FINETUNING) -> Iterator[local.DockerRunner]:
    """A runner for `run_local` with which each step of a pipeline runs in its image: root file system read-only, not as
    root, without capabilities, on the host's network, where a store on loopback is. Raises KubefaceError if an image of
    the pipeline is not among them."""
    with ExitStack() as stack:
        stack.enter_context(engine_api(engine))
        stack.enter_context(_images_of(load(pipeline), {step: image.image for step, image in images.items()}))
        stack.enter_context(patch.object(docker_task_handler, "run_docker_container", run_container))
        yield local.DockerRunner(
            environment={name: os.environ[name] for name in HANDED_ON if name in os.environ},
            network_mode="host",
            read_only=True,
            tmpfs={"/tmp": ""},  # noqa: S108 - the container's
            cap_drop=["ALL"],
            security_opt=["no-new-privileges", "label=disable"],
            shm_size=SHARED_MEMORY,
        )


@contextmanager
def _images_of(pipeline: Any, names: dict[str, str]) -> Iterator[None]:
    """A pipeline with other names of its images."""
    containers = images_in(pipeline.pipeline_spec)
    missing = sorted({step for step, _ in containers} - names.keys())
    require(not missing, f"no image of {', '.join(missing)} is recorded: run 'make images' for all steps")
    with restored(pipeline):
        for step, container in containers:
            container["image"] = names[step]
        yield


def run_container(
    client: docker.DockerClient, image: str, command: Sequence[str], volumes: Volumes, **arguments: Any
) -> int:
    """Runs a container of an image, which is not pulled, its output to standard output, and returns its exit code; in
    place of kfp's function. Further arguments are those of docker's `containers.create`.

    kfp 2.17's own has the engine remove the container when it ends, does not find it when it asks for the exit code,
    and takes that for success (kubeflow/pipelines#13332).

    Raises KubefaceError if the image is not there, or the engine refuses to start it."""
    environment = {"KUBEFACE_IMAGE": image} | arguments.pop("environment", {})
    try:
        container = client.containers.create(
            image,
            command=list(command),
            volumes=volumes,
            environment=environment,
            user=_user(client, volumes),
            **arguments,
        )
    except docker.errors.APIError as error:
        raise KubefaceError(f"{image} cannot be run: {error.explanation or error}") from error
    said = ""
    try:
        container.start()
        for chunk in container.logs(stream=True, follow=True):
            text = chunk.decode("utf-8", "replace")
            print(text, end="")
            said = next((line for line in reversed(text.splitlines()) if line.startswith("error: ")), said)
        code = int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)
    if code:
        meaning = ", killed: was there too little memory?" if code == 137 else ""
        _last_words(said.removeprefix("error: ") or f"its container ended with exit code {code}{meaning}")
    return code


def _user(client: docker.DockerClient, volumes: Iterable[str]) -> str:
    """As whom a container runs so that it may write to its folders, which are made, and we may read what it wrote."""
    for folder in volumes:
        Path(folder).mkdir(parents=True, exist_ok=True)  # podman wants it to be there, docker would make it root's
    if "name=rootless" in client.info().get("SecurityOptions", []):
        return "0:0"  # which is us, outside of the container
    if os.getuid():
        return f"{os.getuid()}:{os.getgid()}"
    for folder in volumes:
        for path in (Path(folder), *Path(folder).rglob("*")):
            os.chown(path, USER, USER)
    return f"{USER}:{USER}"


def _last_words(text: str) -> None:
    """Leaves the reason where a step leaves it that fails in a process of this machine; see run.py. The first
    that fails is the one the run fails for: steps that tell about it may fail as well."""
    path = Path(os.environ.get("TERMINATION_LOG", os.devnull))
    if not path.exists():
        path.write_text(text + "\n")


def demo_containers(which: str = "recognition", record: Path = RECORD, engine: str = "") -> None:
    """Runs a demo with each step in its container, after the images were built.

    Args:
        which: What is shown: recognition, attributes, classes or low-resolution.
        record: The images, as `kubeface images` wrote them.
        engine: docker or podman; the one that answers where it is not given.
    """
    chosen = demo.demo_named(which)
    demo.run(chosen, in_containers(read_images(record), find_engine(engine), chosen.pipeline))
