"""What the pipelines can be told: each parameter's name, type, default and description stand here, once.

KFP reads an interface off a function: its signature and the `Args:` of its docstring. `interface` makes both out of the
parameters that a pipeline has, so that those of one name mean the same in every pipeline.
"""

import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

REQUIRED = inspect.Parameter.empty
LINE = 116  # of a docstring in a file whose lines are 120 wide: descriptions in the UI break there


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Args:
        kind: str, int, float, bool, dict or list.
        description: for the UI and the command line.
        default: REQUIRED for none.
    """

    kind: Any
    description: str
    default: Any = REQUIRED


PARAMETERS = {
    "source": Parameter(str, "Images, one folder per person: s3://bucket/prefix, a folder, or a .tar, .tgz or .zip."),
    "models": Parameter(str, "Where promoted models are written, s3://bucket/models or a folder."),
    "name": Parameter(str, "Name of the model below `models`.", "face-model"),
    "listing": Parameter(
        str,
        "Who is in which image of the source, as CSV or Parquet (path, identity, perhaps split; others are "
        "groups); empty where folders or names say it.",
        "",
    ),
    "identity_pattern": Parameter(
        str,
        "Regular expression whose first group, found in a file's name, is the person, as ^(\\d+)_; empty for the "
        "folder's name.",
        "",
    ),
    "forget": Parameter(
        str,
        "People and images to leave out for good, a text file with one name of a person or a file a line; empty "
        "for none.",
        "",
    ),
    "num_shards": Parameter(
        int,
        "Parts that the images are divided into for alignment and filtering; when images are added, only the parts"
        " that they fall into are worked on again. 1 for a few thousand images; about one for each 5,000.",
        1,
    ),
    "degradation": Parameter(
        str,
        "What your cameras do to faces: noise:60, lowres:14, blur:4, jpeg:5, dark, grey, masked, rotated:15, or "
        "none. Put on training and validation crops and on the held-out people.",
        "none",
    ),
    "labels": Parameter(
        str,
        "Which of the binary labels to learn, divided by commas or spaces; empty for all that the listing has.",
        "",
    ),
    "backbone": Parameter(str, "Name of the architecture, such as sface, iresnet50 or edgeface_xs_gamma_06.", "sface"),
    "pretrained": Parameter(
        str,
        "Start from this model folder or weights file (s3://, https:// with #sha256=…); empty for the published "
        "weights.",
        "",
    ),
    "fallback": Parameter(
        str,
        "Backbone to start from, with its published weights, where the weights asked for cannot be fetched, or "
        "scratch; empty to stop then.",
        "",
    ),
    "detector": Parameter(str, "Face detector of the alignment, mtcnn or retinaface.", "mtcnn"),
    "template": Parameter(str, "Where the aligned faces' landmarks lie, arcface_112 or facenet_160.", "arcface_112"),
    "superresolver": Parameter(
        str,
        "What enlarges few pixels: bicubic, or a super-resolution network (.onnx, .safetensors, TorchScript, or a "
        "folder of train_superresolution; s3://, https:// with #sha256=…).",
        "bicubic",
    ),
    "enlarge_which": Parameter(
        str,
        "Which photographs are enlarged before faces are looked for: low (those below vlr_images/, or of which a "
        "listing says resolution low), small (see enlarge_max_side), or all.",
        "low",
    ),
    "enlarge_scale": Parameter(
        int, "How many times they are enlarged; 0 for as many as the network does, 4 for bicubic.", 0
    ),
    "enlarge_max_side": Parameter(
        int, "For enlarge_which small: the longest side of a photograph that is enlarged, in pixels.", 0
    ),
    "min_face_size": Parameter(int, "Smallest face that is aligned, in pixels of the photograph.", 20),
    "min_confidence": Parameter(float, "Least score of a face that is aligned, 0 to 1.", 0.9),
    "filter_min_score": Parameter(float, "Least RetinaFace score of an image that is kept, 0 to 1.", 0.9),
    "filter_min_face_size": Parameter(float, "Least RetinaFace face size of an image that is kept, in pixels.", 20.0),
    "max_faces": Parameter(
        int,
        "Most faces at least half as large as the subject, itself included, of an image that is kept; 0 for any "
        "number.",
        0,
    ),
    "min_sharpness": Parameter(
        float,
        "Least sharpness of a crop that is kept (variance of the Laplacian of its grey levels).",
        20.0,
    ),
    "max_turn": Parameter(
        float,
        "Largest turn of the head of an image that is kept, 0 (frontal) to 1; 0.97 is some 55 degrees.",
        0.97,
    ),
    "min_agreement": Parameter(
        float,
        "Least overlap of the two detectors' boxes of an image that is kept, 0 to 1.",
        0.5,
    ),
    "evaluation_sets": Parameter(
        str,
        "Image sets that nobody who is trained on may be in, archives or prefixes with one folder per person, "
        "divided by spaces; lfw_archive is always among them.",
        "",
    ),
    "on_leak": Parameter(
        str,
        "What happens to people who are in an evaluation set, found by their faces: drop, fail or warn.",
        "drop",
    ),
    "suspects": Parameter(str, "What happens to images that look mislabelled: keep (and list) or drop.", "keep"),
    "duplicates": Parameter(
        str,
        "Near-duplicates stay on one side of every division (group), or only one of them stays (drop).",
        "group",
    ),
    "max_drift": Parameter(
        float,
        "Largest drift from the data of the run before (population stability index; 0.25 is large); 0 for no limit.",
        0.0,
    ),
    "on_drift": Parameter(
        str,
        "What happens above max_drift: warn, stop, or retrain, with which a run whose data have not drifted that "
        "far ends early, without training.",
        "warn",
    ),
    "only_if_changed": Parameter(
        bool,
        "A run whose data are the very ones that the promoted model was trained on ends early, without training; "
        "for schedules.",
        False,
    ),
    "apply_filter": Parameter(
        str,
        "Where rejected images are left out: validation (and held-out people), all, or none.",
        "validation",
    ),
    "heldout_fraction": Parameter(float, "Share of people held out for verification.", 0.33),
    "unknown_fraction": Parameter(
        float,
        "Share of the classes that are not trained on but stand for the unknown, to see how many of those are refused.",
        0.0,
    ),
    "val_fraction": Parameter(float, "Share of each trained person's images used for validation.", 0.2),
    "val_people_fraction": Parameter(float, "Share of the trained people who are used for validation alone.", 0.0),
    "min_images": Parameter(int, "Least photographs of a person, 2 or more; 10 are recommended.", 2),
    "recipe": Parameter(
        str,
        "Training settings by name (low-resolution, noise) or from a file (s3://, https:// with #sha256=…); empty "
        "for the defaults.",
        "",
    ),
    "settings": Parameter(
        dict[str, Any],
        'Training settings that go before the recipe\'s, as JSON: {"strategy": "partial", "num_layers": 8}.',
        {},
    ),
    "scratch_settings": Parameter(
        dict[str, Any],
        "Training settings of the small network that is trained from scratch beside the model, as JSON; they go before "
        "those of the recipe scratch.",
        {},
    ),
    "checkpoints": Parameter(
        str,
        "Where a training keeps its checkpoints while it runs, s3://bucket/checkpoints; the same training goes on "
        "from there when it is started again. Empty for none.",
        "",
    ),
    "resume": Parameter(
        str,
        "Go on exactly from this checkpoint of a training that was stopped; empty for a new one.",
        "",
    ),
    "device": Parameter(str, "auto, cpu or cuda.", "auto"),
    "workers": Parameter(
        int,
        "Processes that read and augment in fine-tuning; negative for as many as suit the device.",
        -1,
    ),
    "lfw_archive": Parameter(
        str,
        "LFW's images (s3://…/lfw-deepfunneled.tar), to measure on LFW too; empty for none.",
        "",
    ),
    "lfw_pairs": Parameter(str, "LFW's pairs.txt; needed with lfw_archive.", ""),
    "pairs": Parameter(
        str,
        "Own pairs of held-out images to measure on, CSV with left, right, same; empty for none.",
        "",
    ),
    "bin_sets": Parameter(
        str,
        "Pair sets of insightface to measure on (lfw.bin, cfp_fp.bin …), divided by spaces; empty for none.",
        "",
    ),
    "probes": Parameter(
        str,
        "What is put on the held-out people's crops to see how both models stand it, divided by spaces, as "
        "lowres:14 blur:4 masked; all for twelve of them, none for none.",
        "all",
    ),
    "sizes": Parameter(
        str,
        "Sizes that faces of few pixels are measured at, sides of the crop in pixels, divided by spaces.",
        "10 14 20",
    ),
    "fmr": Parameter(float, "False match rate that the decision threshold is calibrated for, as a share.", 0.001),
    "refuse": Parameter(
        float,
        "Share of the known classes' validation images that may be refused as unknown; it sets the threshold.",
        0.05,
    ),
    "gate": Parameter(
        dict[str, Any],
        'When a model is better, as JSON: {"target": "heldout", "metrics": "auc tar", "min_gain": 0.0, "max_loss":'
        ' 0.01, "max_loss_lfw": 0.01, "max_loss_group": 0.1, "confidence": 0.95, "over_champion": "better"}.',
        {},
    ),
    "bootstrap": Parameter(int, "Samples of people for the intervals.", 1000),
    "model_registry": Parameter(
        str,
        "URL of a Kubeflow Model Registry in which promoted models are registered; empty for none.",
        "",
    ),
    "mlflow": Parameter(str, "Tracking URI of an MLflow in which promoted models are registered; empty for none.", ""),
    "max_pixels": Parameter(int, "Largest image in pixels; larger ones are rejected.", 50_000_000),
    "s3_endpoint": Parameter(str, "URL of the S3 store; empty for S3_ENDPOINT of the steps' environment, or AWS.", ""),
    "weights_mirror": Parameter(
        str,
        "Where published weights are copied to, s3://bucket/weights, for clusters without internet; empty for "
        "KUBEFACE_WEIGHTS_MIRROR of the steps' environment, or the publishers.",
        "",
    ),
    "seed": Parameter(int, "Seed of everything random.", 0),
    "align_cpu": Parameter(str, "Processors of each pod that aligns, as 4 or 500m.", "4"),
    "align_memory": Parameter(str, "Memory of each pod that aligns, as 8Gi.", "8Gi"),
    "audit_cpu": Parameter(str, "Processors of the audit.", "4"),
    "audit_memory": Parameter(str, "Memory of the audit.", "4Gi"),
    "evaluate_cpu": Parameter(str, "Processors of the evaluation.", "4"),
    "evaluate_memory": Parameter(str, "Memory of the evaluation.", "8Gi"),
    "finetune_cpu": Parameter(str, "Processors of fine-tuning.", "8"),
    "finetune_memory": Parameter(str, "Memory of fine-tuning.", "32Gi"),
    "finetune_gpus": Parameter(
        str,
        "GPUs of fine-tuning, as 1; several share the work. 0 for none, and with num_nodes above 1.",
        "1",
    ),
    "gpu_type": Parameter(
        str,
        "What a GPU is called in your cluster: nvidia.com/gpu, amd.com/gpu, nvidia.com/mig-1g.5gb …",
        "nvidia.com/gpu",
    ),
    "node_selector": Parameter(
        dict[str, Any],
        'Labels of the nodes that fine-tuning runs on, as JSON: {"pool": "gpu"}.',
        {},
    ),
    "tolerations": Parameter(
        list[Any],
        'Taints of nodes that fine-tuning may run on all the same, as JSON: [{"key": "nvidia.com/gpu", "operator":'
        ' "Exists", "effect": "NoSchedule"}].',
        [],
    ),
    "num_nodes": Parameter(int, "Nodes that fine-tuning runs on; above 1 it is handed to Kubeflow Trainer.", 1),
    "node_resources": Parameter(
        dict[str, Any],
        'With num_nodes above 1, what each node\'s pod gets, as JSON: {"cpu": "8", "memory": "32Gi", '
        '"nvidia.com/gpu": 1}.',
        {},
    ),
    "training_runtime": Parameter(
        str,
        "With num_nodes above 1, the ClusterTrainingRuntime of Kubeflow Trainer.",
        "torch-distributed",
    ),
    "ui": Parameter(
        str,
        "Address of Kubeflow Pipelines' UI, for a link in what the webhook is told; empty for none.",
        "",
    ),
}

SCRATCH_RECIPE = "scratch"  # of the small network that a classifier is held against
# What only the recognition of faces of few pixels has.
OF_FEW_PIXELS = "superresolver enlarge_which enlarge_scale enlarge_max_side sizes"
# What only recognition has.
OF_RECOGNITION = (
    f"{OF_FEW_PIXELS} evaluation_sets on_leak val_people_fraction lfw_archive lfw_pairs pairs bin_sets probes fmr"
)
# What differs where a model learns labels or classes, in both pipelines.
LABELLED: dict[str, dict[str, Any]] = {
    "backbone": {
        "description": "Name of the architecture, such as resnet50 and vgg16 (ImageNet), sface or iresnet50 (faces).",
        "default": "resnet50",
    },
    "detector": {"description": "Face detector of the alignment: mtcnn, retinaface, or none for whole photographs."},
    "template": {
        "description": "What of a photograph is the crop: portrait_224 (a face with hair and shoulders), arcface_112, "
        "facenet_160, or, for detector none, whole_224."
    },
    "recipe": {
        "description": "Training settings by name (attributes, classes) or from a file (s3://, https:// with "
        "#sha256=…); empty for the defaults."
    },
}


def chosen(leave_out: str, **changed: Mapping[str, Any]) -> dict[str, Parameter]:
    """The parameters of one pipeline, in the order of PARAMETERS.

    Args:
        leave_out: names of those that it does not have, divided by spaces.
        changed: by name, the fields of a Parameter that differ in this pipeline: default, description.

    Raises:
        KeyError: a name that is none.
    """
    out = set(leave_out.split())
    for name in (*out, *changed):
        PARAMETERS[name]
    return {
        name: replace(parameter, **changed.get(name, {})) for name, parameter in PARAMETERS.items() if name not in out
    }


def interface(function: Any, parameters: Mapping[str, Parameter], summary: str, returns: Any) -> Any:
    """The function, with the signature and the docstring that KFP and the command line read.

    Args:
        function: takes the values in the order of the parameters.
        parameters: by name; those without a default come first.
        summary: one line.
        returns: the NamedTuple of its outputs.
    """
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature(
        [inspect.Parameter(name, either, default=p.default, annotation=p.kind) for name, p in parameters.items()],
        return_annotation=returns,
    )
    function.__annotations__ = {name: p.kind for name, p in parameters.items()} | {"return": returns}
    entries = (
        textwrap.fill(
            f"{name}: {p.description}",
            LINE,
            initial_indent="    ",
            subsequent_indent="        ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, p in parameters.items()
    )
    function.__doc__ = "\n".join([summary, "", "Args:", *entries])
    return function
