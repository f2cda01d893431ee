"""Options of the data steps that are refused, each with a line that says why."""

import re
from typing import Any

import pytest

from kubeface.align.options import AlignOptions
from kubeface.audit.options import AuditOptions
from kubeface.filter.options import FilterOptions
from kubeface.ingest.options import IngestOptions
from kubeface.records.gate import RecognitionGate
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import Options, read_options
from kubeface.split.options import SplitOptions
from kubeface.superresolve.options import SuperresolveOptions


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (IngestOptions, {"identity_pattern": "("}, ": identity_pattern '(' is no regular expression"),
        (IngestOptions, {"identity_pattern": r"\d+"}, r": identity_pattern '\d+' has no group"),
        (AlignOptions, {"detector": "yolo"}, ".detector is 'yolo': input should be 'mtcnn', 'retinaface' or 'none'"),
        (AlignOptions, {"min_confidence": 1.5}, ".min_confidence is 1.5: input should be less than or equal to 1"),
        (AlignOptions, {"template": "square"}, ".template is 'square': input should be 'arcface_112', 'facenet_160'"),
        (AlignOptions, {"detector": "none"}, ": template arcface_112 does not go with detector none: whole_224 is"),
        (AlignOptions, {"template": "whole_224"}, ": template whole_224 does not go with detector mtcnn"),
        (AlignOptions, {"detecter": "none"}, ".detecter is unknown, did you mean detector?"),
        (FilterOptions, {"min_score": 1.1}, ".min_score is 1.1: input should be less than or equal to 1"),
        (FilterOptions, {"min_sharpness": -1.0}, ".min_sharpness is -1.0: input should be greater than or equal to 0"),
        (AuditOptions, {"on_leak": "ignore"}, ".on_leak is 'ignore': input should be 'drop', 'fail' or 'warn'"),
        (AuditOptions, {"on_drift": "stop"}, ": on_drift is 'stop' without a limit: give max_drift above 0"),
        (AuditOptions, {"on_drift": "retrain"}, ": on_drift is 'retrain' without a limit"),
        (AuditOptions, {"far_below": 2.0}, ".far_below is 2.0: input should be less than or equal to 1"),
        (AuditOptions, {"duplicate_bits": 9}, ".duplicate_bits is 9: input should be less than or equal to 3"),
        (SplitOptions, {"apply_filter": "some"}, ".apply_filter is 'some': input should be 'validation', 'all' or"),
        (SplitOptions, {"heldout_fraction": 1.0}, ".heldout_fraction is 1.0: input should be less than 1"),
        (SplitOptions, {"heldout_fraction": float("nan")}, ".heldout_fraction is nan: input should be "),
        (SplitOptions, {"min_images": 1}, ": min_images is 1: recognition needs at least 2 images of a person"),
        (SplitOptions, {"task": "faces"}, ".task is 'faces': input should be 'recognition', 'attributes' or 'classes'"),
        (SplitOptions, {"unknown_fraction": 0.1}, ": unknown_fraction is 0.1: it is for task classes, set it to 0 for"),
        (SplitOptions, {"task": "attributes", "unknown_fraction": 0.1}, ": unknown_fraction is 0.1: it is for task"),
        (SplitOptions, {"task": "attributes", "val_people_fraction": 0.1}, ": val_people_fraction is 0.1: it is for"),
        (SuperresolveOptions, {"scale": 1}, ": scale is 1: "),
        (SuperresolveOptions, {"scale": 17}, ".scale is 17: "),
        (SuperresolveOptions, {"which": "some"}, ".which is 'some': "),
        (SuperresolveOptions, {"which": "small"}, ": max_side is 0 and which is small: small needs one"),
        (SuperresolveOptions, {"max_side": 20}, ": max_side is 20 and which is low"),
        (RecognitionGate, {"max_los": 0.1}, ".max_los is unknown, did you mean max_loss"),
        (RecognitionGate, {"max_loss": -1}, ".max_loss is -1: "),
        (RecognitionGate, {"metrics": "auc gut"}, ".metrics is 'auc gut': name some of auc, tar, accuracy"),
        (RecognitionGate, {"metrics": " "}, ".metrics is ' ': "),
        (RecognitionGate, {"confidence": 1.0}, ".confidence is 1.0: "),
        (RecognitionGate, {"over_champion": "maybe"}, ".over_champion is 'maybe': "),
    ],
)
def test_invalid_options_are_refused(kind: type[Options], values: dict[str, Any], message: str) -> None:
    with pytest.raises(KubefaceError, match=f"^step{re.escape(message)}"):
        read_options(kind, values, "step.")
