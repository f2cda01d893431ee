"""Options of align."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kubeface.faces.templates import WHOLE, TemplateName
from kubeface.runtime.options import Options, Share


class AlignOptions(Options):
    """How faces are found and cropped."""

    detector: Literal["mtcnn", "retinaface", "none"] = "mtcnn"
    """Face detector; none for whole photographs of anything."""
    min_face_size: Annotated[int, Field(ge=1)] = 20
    """Smallest face that is looked for: shorter side of its box in pixels of the photograph."""
    min_confidence: Share = 0.9
    """Least detector score of a face, 0 to 1."""
    template: TemplateName = "arcface_112"
    """What of a photograph is the crop: arcface_112 moves the five landmarks onto ArcFace's positions in 112×112
    pixels, facenet_160 stretches the face's box to 160×160 as facenet-pytorch does, portrait_224 adds hair and
    shoulders around ArcFace's crop; whole_224, for detector none, scales the photograph's middle square to 224×224."""

    @model_validator(mode="after")
    def _template_fits_detector(self) -> Self:
        if (self.detector == "none") != (self.template == WHOLE):
            raise ValueError(
                f"template {self.template} does not go with detector {self.detector}: {WHOLE} is for detector none, "
                "and the others are for faces"
            )
        return self
