"""The commands `images`, `push` and `run-step`: the steps' images, their names and digests.

`build/images.json` remembers them: {"align": {"image": "registry/align:tag", "digest": "sha256:…", "size": bytes}, …}.
The digest is a registry's and so empty until the image is pushed; `kubeface compile --images` compiles it in.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import BaseModel, TypeAdapter, ValidationError

from kubeface import __version__
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage.folders import write_json

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = "localhost/kubeface"
RECORD = Path("build/images.json")
BASE = "base"  # what the others start from; no step
ENGINES = ("docker", "podman")
# Variables that a container gets of this process.
HANDED_ON = ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "KUBEFACE_WEIGHTS_MIRROR")
USER = 10001  # of the images; see their Dockerfiles
# Flags of several commands.
StepsFlag = Annotated[str, Parameter(help="These alone, divided by spaces; all where empty.")]
EngineFlag = Annotated[str, Parameter(help="docker or podman; the one that answers where empty.")]
RegistryFlag = Annotated[str, Parameter(help="Registry and prefix of the images.")]
TagFlag = Annotated[str, Parameter(help="Tag of the images; the git commit where empty.")]
RecordFlag = Annotated[Path, Parameter(help="File of names and digests.")]
LABELS = "org.opencontainers.image"  # OCI image specification, annotations.md


class Image(BaseModel):
    """One image."""

    image: str  # its full name, `<registry>/<step>:<tag>`
    digest: str = ""  # of its manifest in the registry, sha256:…; empty until it is pushed
    size: int  # bytes of its layers, unpacked

    @property
    def pinned(self) -> str:
        """The name by digest, `<registry>/<step>@sha256:…`. Raises KubefaceError if the image was not pushed."""
        require(bool(self.digest), f"{self.image} has no digest: push it first ('make push REGISTRY=…')")
        return f"{self.image.rpartition(':')[0]}@{self.digest}"


Images = dict[str, Image]


def read_images(path: Path) -> Images:
    """The images that `make images` and `make push` recorded in a file, by step. Raises KubefaceError if the file does
    not exist or has other content."""
    try:
        return TypeAdapter(Images).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise KubefaceError(f"{path} does not exist: run 'make images' first") from None
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise KubefaceError(f"{path}: {place or 'it'} is not what 'make images' writes: run it again") from error


def all_steps() -> list[str]:
    """Names of the images, the base aside: the folders of images/ with a Dockerfile."""
    return sorted(path.parent.name for path in ROOT.glob("images/*/Dockerfile") if path.parent.name != BASE)


def find_engine(name: str = "") -> str:
    """The container engine to use: the one that is named, else the first of docker and podman that answers. Raises
    KubefaceError if it is not installed, or does not answer; the reason is given."""
    reasons = []
    for engine in (name,) if name else ENGINES:
        if shutil.which(engine) is None:
            reasons.append(f"{engine} is not installed")
            continue
        done = subprocess.run([engine, "info"], capture_output=True, text=True)
        # docker's client says "ERROR: Cannot connect …" on standard error and may still exit with 0
        if done.returncode == 0 and "ERROR" not in done.stderr:
            return engine
        reasons.append(f"{engine}: {_last_line(done.stderr)}")
    raise KubefaceError(
        f"no container engine: {'; '.join(reasons)} (choose one with --engine docker or podman, ENGINE= of make)"
    )


def commit() -> str:
    """The tag of what is checked out: the commit's first 12 digits, with -dirty where files differ from it; the
    version where there is no repository."""
    done = _git("describe", "--always", "--abbrev=12", "--dirty", "--exclude=*")
    return done or __version__


def revision(step: str) -> str:
    """The last commit that changed what is in a step's image, with -dirty where that is not committed.

    Not the commit that is checked out: an image whose label changes has another digest, and a pipeline by digest would
    then do every step again for a change of the documentation.
    """
    lines = (ROOT / "images" / step / "Dockerfile").read_text("utf-8").splitlines()
    code = [line.split()[1] for line in lines if line.startswith(("COPY components", "COPY kubeface"))]
    globs = [f":(glob){path if '*' in path else f'{path}/**'}" for path in code]
    sources = [f"images/{BASE}", f"images/{step}", *globs]
    last = _git("log", "-1", "--format=%H", "--", *sources)
    return last + ("-dirty" if last and _git("status", "--porcelain", "--", *sources) else "")


def _git(*arguments: str) -> str:
    """What git prints; empty without a repository or git."""
    try:
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def build(
    steps: Sequence[str], engine: str, registry: str, tag: str, base_image: str = "", lock: str = ""
) -> Iterator[tuple[str, Image]]:
    """Builds the images `<registry>/<step>:<tag>` of steps, the base that they start from first; yields each when it is
    built.

    Args:
        steps: names of folders of images/.
        engine: docker or podman.
        base_image: what the base starts from instead of python:3.11-slim: a digest, or an image with CUDA.
        lock: lock file to install instead of requirements.lock, as requirements-gpu.lock for evaluate's variant.

    Raises KubefaceError if there is no such step, or its image could not be built; the engine's last line is given."""
    known = all_steps()
    for step in steps:
        require(step in known, f"there is no image of '{step}': use one of {', '.join(known)}")
    base = f"{registry}/{BASE}:{tag}"
    _build(engine, BASE, base, {"BASE_IMAGE": base_image})
    for step in steps:
        image = f"{registry}/{step}:{tag}"
        _build(engine, step, image, {"KUBEFACE_BASE": base, "LOCK": lock})
        yield step, Image(image=image, size=int(_inspect(engine, image, "{{.Size}}")))


def _build(engine: str, step: str, image: str, build_arguments: Mapping[str, str]) -> None:
    labels = {"revision": revision(step), "version": __version__, "title": f"kubeface {step}"}
    command = [engine, "build", "--file", f"images/{step}/Dockerfile", "--tag", image]
    for name, value in labels.items():
        command += ["--label", f"{LABELS}.{name}={value}"]
    for name, value in build_arguments.items():
        command += ["--build-arg", f"{name}={value}"] if value else []
    _run([*command, "."], f"the image of {step} could not be built")


def push(images: Images, engine: str) -> Iterator[tuple[str, Image]]:
    """Pushes images to the registry that they are named for; yields each, with its digest in the registry, when it is
    pushed. Raises KubefaceError if the registry refuses; the engine's last line is given."""
    for step, image in images.items():
        failure = f"{image.image} could not be pushed: is the registry right, and are you logged in ('{engine} login')?"
        with tempfile.TemporaryDirectory() as scratch:
            digest = Path(scratch, "digest")
            options = ["--digestfile", str(digest)] if engine == "podman" else []
            _run([engine, "push", *options, image.image], failure)
            if engine == "podman":  # its own record names the digest before compression
                pushed = digest.read_text().strip()
            else:
                name = image.image.rpartition(":")[0]
                digests = json.loads(_inspect(engine, image.image, "{{json .RepoDigests}}"))
                pushed = next(entry.partition("@")[2] for entry in digests if entry.startswith(f"{name}@"))
        yield step, image.model_copy(update={"digest": pushed})


def _as_me(engine: str, data: Path) -> list[str]:
    """Options with which the caller owns what the container writes; root becomes the image's own user, to whom the
    folder must be open."""
    if os.getuid():
        return [f"--user={os.getuid()}:{os.getgid()}", *(["--userns=keep-id"] if engine == "podman" else [])]
    status = data.stat()
    require(
        status.st_uid == USER or bool(status.st_mode & 0o002),
        f"user {USER}, as whom root's containers run, may not write to {data}: 'chown {USER} {data}', or name a folder "
        "with --data (DATA= of make)",
    )
    return [f"--user={USER}:{USER}"]


def _inspect(engine: str, image: str, form: str) -> str:
    done = subprocess.run([engine, "image", "inspect", "--format", form, image], capture_output=True, text=True)
    require(done.returncode == 0, f"{image} is not there: run 'make images' first")
    return done.stdout.strip()


def _run(command: Sequence[str], failure: str) -> None:
    """Runs a command of the engine in the repository, with its output on the terminal; `failure` begins an error."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None  # noqa: S101 - for mypy
    line = ""
    for line in process.stdout:
        print(line, end="", flush=True)
    require(process.wait() == 0, f"{failure} {_last_line(line)}".strip())


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it gave no reason"])[-1]


def _record(path: Path, images: Iterator[tuple[str, Image]]) -> None:
    """Adds each image to the file as soon as it exists: a build that breaks off loses none."""
    for step, image in images:
        known = read_images(path) if path.exists() else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {name: entry.model_dump() for name, entry in sorted((known | {step: image}).items())})
        print(f"{step}: {image.pinned if image.digest else image.image}, {image.size / 1e6:.0f} MB")


def build_images(
    *,
    step: StepsFlag = "",
    engine: EngineFlag = "",
    registry: RegistryFlag = REGISTRY,
    tag: TagFlag = "",
    base_image: str = "",
    lock: str = "",
    record: RecordFlag = RECORD,
) -> None:
    """Builds the steps' images, and records their names.

    Args:
        base_image: Image to start from instead of python:3.11-slim, as name@sha256:….
        lock: Lock file instead of requirements.lock: requirements-gpu.lock for evaluate on a GPU.
    """
    steps = step.split() or all_steps()
    _record(record, build(steps, find_engine(engine), registry, tag or commit(), base_image, lock))


def push_images(
    *,
    step: StepsFlag = "",
    engine: EngineFlag = "",
    registry: RegistryFlag = REGISTRY,
    tag: TagFlag = "",
    record: RecordFlag = RECORD,
) -> None:
    """Pushes the images, and records their digests."""
    chosen, images = find_engine(engine), read_images(record)
    names = {one: f"{registry}/{one}:{tag or commit()}" for one in step.split() or all_steps()}
    for one, name in names.items():
        require(one in images and images[one].image == name, f"{name} was not built: run 'make images' first")
    _record(record, push({one: images[one] for one in names}, chosen))


def run_step(
    step: str,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    engine: EngineFlag = "",
    registry: RegistryFlag = REGISTRY,
    tag: TagFlag = "",
    data: Path = Path(),
    network: str = "none",
) -> None:
    """Runs one step in its container, as it would be run on a cluster, and ends with its exit code.

    The root file system is read-only, the user is not root, no capability is left, and there is no network unless it
    is asked for. The S3 settings are those of the environment.

    Args:
        step: Name of the step.
        arguments: Command line of the step, with paths relative to the data folder.
        data: Folder that is /data, where the command starts.
        network: Network of the container: none, or host.
    """
    chosen = find_engine(engine)
    require(data.is_dir(), f"{data} is no folder: name one with --data (DATA= of make)")
    image = f"{registry}/{step}:{tag or commit()}"
    _inspect(chosen, image, "{{.Id}}")
    command = [chosen, "run", "--rm", "--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--workdir=/data"]
    command += ["--security-opt=no-new-privileges", "--security-opt=label=disable", f"--network={network}"]
    command += [f"--volume={data.resolve()}:/data", *_as_me(chosen, data)]
    for name in HANDED_ON:
        command += ["--env", name] if name in os.environ else []  # by name: no key among a process's arguments
    code = subprocess.run([*command, image, "python", "-m", "kubeface", step, *arguments]).returncode
    if code:
        raise SystemExit(code)
