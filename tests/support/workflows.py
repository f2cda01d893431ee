"""Workflow objects, their nodes named and nested as Argo 4.0.5 wrote them for KFP 2.17.0."""

import base64
import gzip
import json
import zlib
from typing import Any

RUN = "face-finetuning-c8wdj"
STEPS = f"{RUN}(0).root(0).face-finetuning-steps(0)"
SHARD = f"{STEPS}.for-loop-1(0).iteration-iterations(0:1)(0).iteration-item(0)"
EXECUTOR, POD, DRIVER = (f"retry-system-container-{kind}" for kind in ("executor", "impl", "driver"))


def node(path: str, template: str, phase: str = "Succeeded", cached: bool = False, **more: Any) -> dict[str, Any]:
    number = zlib.crc32(path.encode())
    minute = more.pop("minute", 0)
    ended = f"2026-11-30T17:{minute + 1:02d}:00Z" if phase not in ("Running", "Pending") else None
    times = {"startedAt": f"2026-11-30T17:{minute:02d}:00Z", "finishedAt": ended}
    inputs = {"parameters": [{"name": "cached-decision", "value": str(cached).lower()}]}
    name = {"id": f"{RUN}-{number}", "name": path, "displayName": path.rpartition(".")[2], "templateName": template}
    return {**name, "type": "Retry", "phase": phase, "inputs": inputs, **times, **more}


def task(path: str, phase: str = "Succeeded", **more: Any) -> list[dict[str, Any]]:
    """A task with its driver, wrappers and one pod."""
    wrappers = [
        (path, EXECUTOR),
        (f"{path}(0)", EXECUTOR),
        (f"{path}(0).executor", POD),
        (f"{path}(0).executor(0)", POD),
    ]
    driver = node(f"{path}-driver", DRIVER, **{key: value for key, value in more.items() if key == "minute"})
    return [driver, *(node(name, template, phase, **more) for name, template in wrappers)]


def pod(path: str, attempt: int = 0) -> str:
    """Name of the pod of an attempt of the task at a path."""
    return f"{RUN}-{POD}-{zlib.crc32(f'{path}(0).executor({attempt})'.encode())}"


def workflow(*nodes: dict[str, Any], packed: bool = False, phase: str = "Running") -> dict[str, Any]:
    by_id = {one["id"]: one for one in nodes}
    status = {"compressedNodes": base64.b64encode(gzip.compress(json.dumps(by_id).encode())).decode()}
    return {"metadata": {"name": RUN}, "status": {"phase": phase} | (status if packed else {"nodes": by_id})}
