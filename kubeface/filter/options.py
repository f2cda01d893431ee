"""Options of filter.

The defaults were measured on 1,000 photographs of LFW and 4,208 of CelebA in the wild, aligned with MTCNN; descriptions
give the shares that each of them rejects, in this order.
"""

from kubeface.runtime.options import Count, NonNegative, Options, Share


class FilterOptions(Options):
    """What an aligned image must fulfil to be kept."""

    min_score: Share = 0.9
    """Least RetinaFace score, 0 to 1. 0.9, the detector's own default, rejects 0 % and 0.9 % of good photographs."""
    min_face_size: NonNegative = 20.0
    """Least size of the face: shorter side of its box in pixels of the photograph. 20 is what MTCNN looks for; rejects
    0 % and 0.3 %."""
    max_faces: Count = 0
    """Most faces at least half as large as the subject, itself included; 0 for any number, since 12.5 % and 1.6 % of
    good portraits have more than one. Use 1 where a bystander must not be mistaken for the subject."""
    min_sharpness: NonNegative = 20.0
    """Least sharpness: variance of the Laplacian of the crop's grey levels from brows to chin. 20 rejects 0.1 % and
    0.2 %; of crops blurred with a standard deviation of 2 pixels 69 % and 53 %, of 3 pixels 99 % and 94 %."""
    max_turn: Share = 0.97
    """Largest turn of the head, 0 (frontal) to 1 (profile). At 0.97, some 55 degrees, the tip of the nose is over an
    eye; rejects 0.9 % and 1.9 %."""
    min_agreement: Share = 0.5
    """Least overlap (intersection over union) of RetinaFace's box with the aligner's, 0 to 1. 0.5 is PASCAL VOC's
    criterion for the same object; the median is 0.9, and it rejects 0 % and 0.6 %."""
