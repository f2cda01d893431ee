"""The evaluations with their options as keywords."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubeface.evaluate import attributes, classes, step
from kubeface.evaluate.options import (
    EvaluateAttributesOptions,
    EvaluateClassesOptions,
    EvaluateOptions,
    LfwOptions,
)
from kubeface.evaluate.provenance import EvaluationResult
from kubeface.runtime.options import read_options
from kubeface.storage.folders import read_json, sha256_file
from tests.support.exported import configured

QUICK: dict[str, Any] = {"bootstrap": 100, "device": "cpu", "probes": "none"}  # options of an evaluation in a test


def read(folder: Path, name: str = "evaluation.json") -> dict[str, Any]:
    """A JSON file of an evaluation."""
    return dict(read_json(folder / name))


# Spoils a model folder and perhaps more; what it returns are settings of the evaluation.
Change = Callable[..., Any]


def config(**changes: Any) -> Change:
    """Other entries of model.json."""

    def change(model: Path, *_: Any) -> None:
        configured(model, **changes)

    return change


def with_settings(**settings: Any) -> Change:
    return lambda *_: settings


def not_sampled(model: Path, *_: Any) -> None:
    (model / "sampling.json").unlink()


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def evaluate(
    aligned: Path, split: Path, model: Path, out: Path, champion: str = "", **options: Any
) -> EvaluationResult:
    """`kubeface.evaluate.step.evaluate`."""
    return step.evaluate(aligned, split, model, out, read_options(EvaluateOptions, options), champion)


def evaluate_attributes(
    aligned: Path, split: Path, model: Path, out: Path, champion: str = "", **options: Any
) -> attributes.EvaluateAttributesResult:
    """`kubeface.evaluate.attributes.evaluate_attributes`."""
    settings = read_options(EvaluateAttributesOptions, options)
    return attributes.evaluate_attributes(aligned, split, model, out, settings, champion)


def evaluate_classes(
    aligned: Path, split: Path, model: Path, out: Path, scratch: Path | None = None, champion: str = "", **options: Any
) -> EvaluationResult:
    """`kubeface.evaluate.classes.evaluate_classes`."""
    settings = read_options(EvaluateClassesOptions, options)
    return classes.evaluate_classes(aligned, split, model, out, settings, champion, scratch)


def lfw(archive: str, pairs: str, model: str = "", **options: Any) -> step.LfwResult:
    """`kubeface.evaluate.step.lfw`."""
    return step.lfw(archive, pairs, read_options(LfwOptions, {"model": model} | options))
