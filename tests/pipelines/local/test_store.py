"""The embedded store: private while it runs, gone afterwards, whatever ended the run."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from pipelines.local.store import free_ports, local_store

KEYS = ("S3_ENDPOINT", "S3_BUCKET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def listening(process: int | None = None) -> set[tuple[str, int]]:
    """Addresses and ports of IPv4 and IPv6 that a process, or any, listens on (address as the kernel's hex)."""
    sockets = {str(entry.readlink()) for entry in Path(f"/proc/{process}/fd").iterdir()} if process else set()
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and (not process or f"socket:[{fields[9]}]" in sockets):
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found


def weeds() -> set[int]:
    """Process ids of running SeaweedFS servers, but for those of tests that run beside these."""
    ids, worker = set(), os.environ.get("PYTEST_XDIST_WORKER", "").encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                ours = not worker or b"PYTEST_XDIST_WORKER=" + worker in (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if command[0].endswith(b"/weed") and ours:
                ids.add(int(entry.name))
    return ids


def test_store_serves_with_its_key_only_and_only_on_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    processes = weeds()
    with local_store("kubeface") as environment:
        for name in KEYS:
            monkeypatch.setenv(name, environment[name])
        objects.ensure_bucket("kubeface")
        path = tmp_path / "face.bin"
        path.write_bytes(b"face" * 1000)
        objects.upload(path, "s3://kubeface/people/a/1.bin")
        assert objects.read_bytes("s3://kubeface/people/a/1.bin") == path.read_bytes()

        (process,) = weeds() - processes
        opened = listening(process)
        assert opened and {address for address, _ in opened} == {"0100007F"}  # 127.0.0.1
        for _, port in sorted(opened):
            for name in ("buckets/kubeface/people/a/1.bin", "kubeface/people/a/1.bin", "1,01637037d6"):
                with pytest.raises((urllib.error.URLError, OSError)):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=5).read()

        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(KubefaceError, match=r"refuses the access key .* check AWS_ACCESS_KEY_ID"):
            objects.list_files("s3://kubeface/people")
    assert weeds() == processes
    assert not {port for _, port in opened} & {port for _, port in listening()}


def test_two_stores_have_different_keys() -> None:
    with local_store("kubeface") as one, local_store("kubeface") as two:
        assert all(one[name] != two[name] for name in KEYS if name != "S3_BUCKET")


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(KubefaceError, match=f"port {port} on 127.0.0.1 is in use"), local_store("kubeface", port):
            pass


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_store_stops_when_the_block_fails() -> None:
    processes = weeds()
    with pytest.raises(RuntimeError, match="boom"), local_store("kubeface"):
        assert weeds() != processes
        raise RuntimeError("boom")
    assert weeds() == processes


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_store_stops_on_ctrl_c_and_on_termination(which: signal.Signals) -> None:
    program = (
        "import signal, time\n"
        "from pipelines.local.store import local_store\n"
        # A shell without job control starts what runs in the background with SIGINT ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with local_store('kubeface') as e:\n"
        "    print('up', flush=True)\n"
        "    time.sleep(60)\n"
    )
    processes = weeds()
    run = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ)
    )
    assert run.stdout is not None and run.stdout.readline() == b"up\n"
    assert weeds() != processes
    run.send_signal(which)
    assert run.wait(30) != 0
    run.stdout.close()
    end = time.monotonic() + 10
    while weeds() != processes and time.monotonic() < end:
        time.sleep(0.1)
    assert weeds() == processes
