"""Which tasks of a run KFP's cache does not serve, followed through the compiled pipeline."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.cluster.versions import Spec

Causes = frozenset[str]  # names of what has changed, for people
Changes = Mapping[str, Causes]  # by name of an input or an output
NONE: Causes = frozenset()


def uncached_tasks(spec: Spec, parameters: Changes, outputs: Mapping[str, Changes]) -> dict[str, Causes]:
    """The tasks that the cache does not serve, each with the causes; none where it is never cached.

    KFP's key of a task is its image, command and inputs: a changed input has it run anew, and with it whatever takes
    what it gives out. Followed through loops and nested pipelines.

    Args:
        spec: compiled pipeline.
        parameters: of the pipeline, those that differ from the run before.
        outputs: those that differ, by task, of tasks whose outputs are known without running them.
    """
    found: dict[str, Causes] = {}
    _follow(spec, spec["root"]["dag"], parameters, outputs, found)
    return found


def _follow(
    spec: Spec,
    dag: Mapping[str, Any],
    changed: Changes,
    known: Mapping[str, Changes],
    found: dict[str, Causes],
) -> dict[str, Causes]:
    """Adds the tasks of a DAG to `found`; returns its outputs that have changed, each with the causes."""
    outputs: dict[tuple[str, str], Causes] = {}  # those that have changed, by task and key
    for name in _in_order(dag["tasks"]):
        task = dag["tasks"][name]
        component = spec["components"][task["componentRef"]["name"]]
        inputs = _changed_inputs(task, changed, outputs)
        if "dag" in component:
            inner: Changes = _follow(spec, component["dag"], inputs, known, found)
        else:
            causes = NONE.union(*known.get(name, inputs).values())
            if causes or not task.get("cachingOptions", {}).get("enableCache", False):
                found[name] = causes
            made = component.get("outputDefinitions", {})
            keys = (*made.get("parameters", {}), *made.get("artifacts", {}))
            inner = known.get(name, dict.fromkeys(keys, causes) if causes else {})
        outputs |= {(name, key): causes for key, causes in inner.items()}
    return _changed_outputs(dag.get("outputs", {}), outputs)


def _in_order(tasks: Mapping[str, Any]) -> Iterator[str]:
    """The tasks of a DAG, each behind those that it depends on."""
    done: set[str] = set()
    while len(done) < len(tasks):
        for name, task in tasks.items():
            if name not in done and done.issuperset(task.get("dependentTasks", ())):
                done.add(name)
                yield name


def _changed_inputs(
    task: Mapping[str, Any], changed: Changes, outputs: Mapping[tuple[str, str], Causes]
) -> dict[str, Causes]:
    found: dict[str, Causes] = {}
    inputs = task.get("inputs", {})
    for name, entry in {**inputs.get("parameters", {}), **inputs.get("artifacts", {})}.items():
        outer = entry.get("componentInputParameter") or entry.get("componentInputArtifact")
        made = entry.get("taskOutputParameter") or entry.get("taskOutputArtifact") or {}
        key = made.get("outputParameterKey") or made.get("outputArtifactKey") or ""
        causes = changed.get(outer) if outer else outputs.get((made.get("producerTask", ""), key))
        if causes:
            found[name] = causes
    loop = task.get("parameterIterator")
    if loop and (causes := found.get(loop["items"].get("inputParameter", ""))):
        found[loop["itemInput"]] = causes
    return found


def _changed_outputs(definitions: Mapping[str, Any], outputs: Mapping[tuple[str, str], Causes]) -> dict[str, Causes]:
    found: dict[str, Causes] = {}
    for name, entry in {**definitions.get("parameters", {}), **definitions.get("artifacts", {})}.items():
        parameter = [entry["valueFromParameter"]] if "valueFromParameter" in entry else []
        for source in [*parameter, *entry.get("artifactSelectors", [])]:
            key = source.get("outputParameterKey") or source.get("outputArtifactKey") or ""
            if causes := outputs.get((source["producerSubtask"], key)):
                found[name] = found.get(name, NONE) | causes
    return found


def loop_of(spec: Spec, dag: Mapping[str, Any] | None = None) -> tuple[set[str], int]:
    """The tasks inside the loop over shards, and how many shards are worked on at a time."""
    for task in (dag or spec["root"]["dag"])["tasks"].values():
        inner = spec["components"][task["componentRef"]["name"]].get("dag")
        if inner and "parameterIterator" in task:
            return set(inner["tasks"]), int(task.get("iteratorPolicy", {}).get("parallelismLimit", 1)) or 1
        if inner and (found := loop_of(spec, inner))[0]:
            return found
    return set(), 1
