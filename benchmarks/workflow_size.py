"""make bench-workflow: how large the Workflow of a finished run gets, estimated from the compiled pipeline.

Argo keeps a run in one object, and packs its nodes from 1 MiB on, after which Kubeflow's run details stand still. Three
fifths are pod-spec-patches: what the launcher of a task's pod is told, in six copies (outputs of the driver, inputs of
the task and of its executor, each as it stands in a node and in the node that repeats it). Of each artifact that is
about 700 bytes; a component's source would be another 1,200 bytes. Everything is written here as Kubeflow Pipelines
2.17.0 and Argo 4.0.5 write it: a run of face-finetuning that they kept in 943 kB (91 nodes; ingest, align, filter and
gather from the cache) comes out within 2 %.
"""

import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cyclopts
import yaml

from kubeface.plan.parameters import defaults, parameters_of, read_parameters, step_options
from kubeface.plan.step import Plan, outputs
from kubeface.records.receipt import Receipt
from pipelines.build.catalogue import FACE_FINETUNING
from pipelines.build.compile import compile_pipeline
from pipelines.formatting import table

Spec = Mapping[str, Any]

# What a run of face-finetuning may take, by shards: what it takes, and a twentieth. A test holds it to that.
BUDGETS = {1: 893_000, 4: 1_395_000, 8: 2_064_000}
GIVEN = {"source": "s3://kubeface/datasets/people", "models": "s3://kubeface/models", "name": "people"}
HASH = "0" * 64
RUN = "a344ea8e-671b-4e94-9761-f9e9b9e27cb7"  # any identifier
SESSION = json.dumps(
    {
        "Provider": "s3",
        "Params": {
            "accessKeyKey": "accesskey",
            "disableSSL": "true",
            "endpoint": "kubeface-store:8333",
            "forcePathStyle": "true",
            "fromEnv": "false",
            "maxRetries": "5",
            "region": "us-east-1",
            "secretKeyKey": "secretkey",
            "secretName": "mlpipeline-minio-artifact",
        },
    },
    separators=(",", ":"),
)
LAUNCHER = [
    *("/kfp-launcher/launch", "--pipeline_name", FACE_FINETUNING, "--run_id", RUN, "--execution_id", "24"),
    *("--pod_name", "$(KFP_POD_NAME)", "--pod_uid", "$(KFP_POD_UID)"),
    *("--ml_pipeline_server_address", "ml-pipeline.kubeflow.svc.cluster.local", "--ml_pipeline_server_port", "8887"),
    *("--mlmd_server_address", "metadata-grpc-service.kubeflow.svc.cluster.local", "--mlmd_server_port", "8080"),
    *("--publish_logs", "true", "--publish_logs", "true", "--"),
]
# Bytes, read off that run: of a node without the values of its parameters, and of what does not depend on the tasks.
DRIVER_NODE, TASK_NODE, GRAPH_NODE, CACHED_NODE = 1370, 920, 640, 520
FIXED_NODES, FIXED_SPEC, TEMPLATE_OF_A_TASK, ARGUMENT = 3200, 25_000, 2100, 130


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def spaced(value: Any) -> str:
    """As the driver writes protobuf."""
    return json.dumps(value, separators=(", ", ":"), ensure_ascii=False)


def stored(*texts: str) -> int:
    """Bytes of texts as values in the Workflow's JSON."""
    return sum(len(json.dumps(text, ensure_ascii=False).encode()) for text in texts)


@dataclass(frozen=True)
class Workflow:
    """The Workflow of a run of a compiled pipeline (PipelineSpec, and what Kubernetes is told) on so many shards."""

    spec: Spec
    kubernetes: Spec
    shards: int
    cached: Collection[str] = ()  # tasks that the cache serves

    @cached_property
    def planned(self) -> dict[str, Any]:
        """The outputs of plan."""
        name = self.spec["pipelineInfo"]["name"]
        run = read_parameters(name, GIVEN)
        shards = [f"{number}/{self.shards} {HASH},{HASH}" for number in range(self.shards)]
        return outputs(Plan(shards, "", step_options(name, run), run.resources))

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The parameters of the pipeline."""
        return defaults(parameters_of(self.spec["pipelineInfo"]["name"])) | GIVEN

    def sizes(self) -> dict[str, int]:
        """Bytes by what takes them: each task in all shards, the nodes of the graph, and the spec."""
        found: dict[str, int] = {}
        loop = 0
        for name, times, task, component in self._tasks(self.spec["root"]["dag"], 1):
            if "dag" in component:
                loop += times * (2 * (stored(compact(component), compact(task)) + DRIVER_NODE) + 4 * GRAPH_NODE)
            else:
                found[name] = times * self._task_size(name, task, component)
        root = compact(self.spec["root"]), compact({"parameterValues": self.arguments})
        found["graph"] = loop + 2 * (stored(*root) + DRIVER_NODE) + FIXED_NODES
        found["spec"] = self._spec_size()
        return found

    def _tasks(self, dag: Spec, times: int) -> list[tuple[str, int, Spec, Spec]]:
        """Every task below a DAG: its name, how often it runs, itself and its component."""
        found = []
        for name, task in dag["tasks"].items():
            component = self.spec["components"][task["componentRef"]["name"]]
            runs = times * (self.shards if "parameterIterator" in task else 1)
            found.append((name, runs, task, component))
            if "dag" in component:
                found += self._tasks(component["dag"], runs)
        return found

    def _executor(self, component: Spec) -> tuple[Spec, Spec]:
        """The container of a component, and what Kubernetes is told of it."""
        label = component["executorLabel"]
        told = self.kubernetes["deploymentSpec"]["executors"].get(label, {})
        return self.spec["deploymentSpec"]["executors"][label]["container"], told

    def _task_size(self, name: str, task: Spec, component: Spec) -> int:
        """Bytes of a task's nodes: its driver, the task and its executor, each with the node that repeats it."""
        container, told = self._executor(component)
        driver = 2 * (stored(compact(component), compact(task), compact(container), compact(told)) + DRIVER_NODE)
        if name in self.cached:
            return driver + 2 * TASK_NODE + CACHED_NODE
        return driver + 6 * stored(self.patch(name, task, component)) + 4 * TASK_NODE

    def _spec_size(self) -> int:
        """Bytes of the Workflow's arguments, where each component stands once, and of its templates."""
        components = [self.spec["root"], *self.spec["components"].values()]
        tasks = [component for component in components if "dag" not in component]
        parts = [part for task in tasks for part in self._executor(task)]
        texts = set(map(compact, [*components, *parts]))
        return FIXED_SPEC + stored(*texts) + len(texts) * ARGUMENT + len(tasks) * TEMPLATE_OF_A_TASK

    def patch(self, name: str, task: Spec, component: Spec) -> str:
        """The pod-spec-patch that a task's driver writes."""
        container, told = self._executor(component)
        ports = component.get("outputDefinitions", {})
        logs = {"executor-logs": {"artifactType": {"schemaTitle": "system.Artifact"}}}
        ports = {**ports, "artifacts": {**ports.get("artifacts", {}), **logs}}
        given = task.get("inputs", {})
        told_input = {
            "inputs": {
                "artifacts": {key: self._taken(name, key) for key in given.get("artifacts", {})},
                "parameterValues": {key: self._value(key, one) for key, one in given.get("parameters", {}).items()},
            },
            "outputs": {
                "artifacts": {key: self._made(name, key, port) for key, port in ports["artifacts"].items()},
                "parameters": {
                    key: {"outputFile": f"/tmp/kfp/outputs/{key}"}  # noqa: S108
                    for key in ports.get("parameters", {})
                },
                "outputFile": self._uri(name, "output_metadata.json"),
            },
        }
        described = {**component, "outputDefinitions": ports}
        pod = {
            "name": "main",
            "image": container["image"],
            "command": [
                *LAUNCHER,
                *("--executor_input", spaced(told_input), "--component_spec", spaced(described)),
            ],
            "args": [*container["command"], *container["args"]],
            "env": [*container.get("env", []), *_variables(told)],
            "resources": {key: {"cpu": "500m", "memory": "4Gi"} for key in ("limits", "requests")},
            "securityContext": {"capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True},
        }
        return compact({"containers": [pod], "activeDeadlineSeconds": 21600})

    def _uri(self, task: str, name: str) -> str:
        return f"s3://kubeface/kfp/{self.spec['pipelineInfo']['name']}/{RUN}/{task}/{RUN}/{name}"

    def _taken(self, task: str, name: str) -> Spec:
        metadata = {"display_name": name, "store_session_info": SESSION}
        return {
            "artifacts": [
                {"name": "12", "type": {"instanceSchema": ""}, "uri": self._uri(task, name), "metadata": metadata}
            ]
        }

    def _made(self, task: str, name: str, port: Spec) -> Spec:
        return {"artifacts": [{"name": name, "type": port["artifactType"], "uri": self._uri(task, name)}]}

    def _value(self, name: str, given: Spec) -> Any:
        """The value of a parameter: a constant, of the run, or of plan; lists are the receipts of the loop."""
        if "runtimeValue" in given:
            return given["runtimeValue"]["constant"]
        output = given.get("taskOutputParameter", {})
        key = output.get("outputParameterKey") or given["componentInputParameter"]
        planned = output.get("producerTask") == "plan" or key.startswith("pipelinechannel--plan-")
        key = key.removeprefix("pipelinechannel--").removeprefix("plan-")
        if key == "Output-loop-item":
            return self.planned["Output"][0]
        if key.endswith("-Output"):
            receipt = Receipt(
                shard="0/1", fingerprint=HASH, uri=self._uri(key, "aligned"), rows_in=999, rows_out=999, seconds=1.25
            )
            return [receipt.model_dump_json()] * self.shards
        return (self.planned if planned else self.arguments).get(key, name)


def _variables(told: Spec) -> list[Spec]:
    """Environment variables out of secrets and config maps, as they stand in a pod."""
    return [
        {
            "name": key["envVar"],
            "valueFrom": {
                f"{kind}KeyRef": {
                    "name": source[f"{kind}{name}"],
                    "key": key[f"{kind}Key" if kind == "secret" else "configMapKey"],
                    "optional": source.get("optional", False),
                }
            },
        }
        for kind, name, entries in (
            ("secret", "Name", told.get("secretAsEnv", [])),
            ("configMap", "Name", told.get("configMapAsEnv", [])),
        )
        for source in entries
        for key in source["keyToEnv"]
    ]


def workflow(pipeline: str = FACE_FINETUNING, shards: int = 1, cached: Collection[str] = ()) -> Workflow:
    """The Workflow of a pipeline, with the images pinned by digest."""
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch, "pipeline.yaml")
        compile_pipeline(package, "localhost:5000/kubeface", f"0@sha256:{HASH}", pipeline=pipeline)
        spec, kubernetes = yaml.load_all(
            package.read_text("utf-8").replace(":0@sha256:", "@sha256:"),
            getattr(yaml, "CSafeLoader", yaml.SafeLoader),
        )
    return Workflow(spec, kubernetes["platforms"]["kubernetes"], shards, cached)


def main(pipeline: str = FACE_FINETUNING) -> None:
    """Prints the bytes of a finished run's Workflow for 1, 4 and 8 shards.

    Args:
        pipeline: Its name.
    """
    counts = (1, 4, 8)
    found = [workflow(pipeline, shards).sizes() for shards in counts]
    rows = [(name, *(f"{size[name]:,}" for size in found)) for name in found[0]]
    totals = ("total", *(f"{sum(size.values()):,}" for size in found))
    print(table([("bytes, by shards", *map(str, counts)), *rows, totals]))


if __name__ == "__main__":
    cyclopts.run(main)
