"""A private S3 store for one run: SeaweedFS on loopback, with random credentials, gone when the run ends."""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kubeface.runtime.errors import KubefaceError

START_SECONDS = 90  # it takes two, on a machine with nothing else to do
STOP_SECONDS = 10


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def local_store(bucket: str, port: int | None = None) -> Iterator[dict[str, str]]:
    """Runs SeaweedFS with one bucket while the block lasts; yields the environment that describes it: S3_ENDPOINT,
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, S3_BUCKET.

    S3 listens on 127.0.0.1, on the port or a free one, and wants the random key. The other parts listen on random ports
    of 127.0.0.1 as well, refuse HTTP without a token (filer: at all), and speak gRPC only.

    Raises KubefaceError if SeaweedFS is not installed, the port is taken, or it does not start."""
    program = Path(sysconfig.get_path("scripts"), "weed")
    if not program.is_file():
        raise KubefaceError(f"{program} is missing: run 'make setup', or set S3_ENDPOINT to use a store of your own")
    if port is not None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise KubefaceError(f"port {port} on 127.0.0.1 is in use ({error.strerror}): choose another") from error
    ports = [port or free_ports(1)[0], *free_ports(7)]
    folder = Path(tempfile.mkdtemp(prefix="kubeface-store-"))
    environment = {
        "S3_ENDPOINT": f"http://127.0.0.1:{ports[0]}",
        "S3_BUCKET": bucket,
        "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
    }
    process = _start(program, folder, ports, environment)
    try:
        _wait(process, environment["S3_ENDPOINT"], folder / "weed.log")
        yield environment
    finally:
        _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def _start(program: Path, folder: Path, ports: list[int], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = ports
    flags = {
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.port": master,
        "master.port.grpc": master_grpc,
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 512,
        "volume.port": volume,
        "volume.port.grpc": volume_grpc,
        "volume.max": 0,
        "volume.preStopSeconds": 0,
        "filer": "true",
        "filer.port": filer,
        "filer.port.grpc": filer_grpc,
        "filer.disableHttp": "true",
        "filer.localSocket": folder / "filer.sock",
        "s3": "true",
        "s3.port": s3,
        "s3.port.grpc": s3_grpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": folder / "s3.sock",
        "s3.allowDeleteBucketNotEmpty": "false",
        "s3.autoCreateBucket": "false",
    }
    # Without these keys the volume server hands out objects to whoever knows their number.
    tokens = {
        f"WEED_JWT_{name}KEY": secrets.token_hex(16)
        for name in ("SIGNING_", "SIGNING_READ_", "FILER_SIGNING_", "FILER_SIGNING_READ_")
    }
    with open(folder / "weed.log", "wb") as log:
        return subprocess.Popen(
            [str(program), "server", *(f"-{name}={value}" for name, value in flags.items())],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | environment | tokens,
            start_new_session=True,  # Ctrl-C reaches the run first, which then stops the store in order
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    """Has Linux end this process when the run that started it dies, however it dies (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until S3 answers, with whatever status."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    lines = log.read_text("utf-8", "replace").strip().splitlines() or ["no output"]
    raise KubefaceError(f"SeaweedFS did not start at {url}: {lines[-1]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
