"""Names of the crop templates; geometry.py has what they mean."""

from typing import Literal

TemplateName = Literal["arcface_112", "facenet_160", "portrait_224", "whole_224"]
WHOLE: Literal["whole_224"] = "whole_224"  # the middle square of a whole photograph, without a face
