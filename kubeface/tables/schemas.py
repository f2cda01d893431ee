"""The columns of every kind of table."""

from functools import partial

import pyarrow as pa

_required = partial(pa.field, nullable=False)
_FACE_FIELDS = [
    _required("image_id", pa.string()),
    _required("identity", pa.string()),
    _required("source", pa.string()),  # name of the image below the data source
    pa.field("given_split", pa.string()),  # train, val or test where the source is divided, else null
    pa.field("groups", pa.string()),  # further labels as JSON: {"camera": "door", "resolution": "low"}
    _required("image", pa.binary()),  # JPEG, PNG or PPM
    _required("width", pa.int32()),
    _required("height", pa.int32()),
    # Of the ingested photograph, 16 hex digits each: SHA-256 of its bytes, and a perceptual hash, of which
    # near-duplicates differ in few bits.
    _required("content", pa.string()),
    _required("phash", pa.string()),
]
SCHEMAS: dict[str, pa.Schema] = {
    "faces": pa.schema(_FACE_FIELDS),
    # Landmarks (x, y of eyes, nose and mouth corners, the image's left first) and box (x1, y1, x2, y2) are in pixels of
    # the ingested photograph, not of the crop.
    "aligned": pa.schema(
        [
            *_FACE_FIELDS,
            _required("landmarks", pa.list_(pa.float32(), 10)),
            _required("det_score", pa.float32()),
            _required("det_box", pa.list_(pa.float32(), 4)),
            pa.field("photo_width", pa.int32()),  # of the photograph; width and height are the crop's
            pa.field("photo_height", pa.int32()),
        ]
    ),
    "filter": pa.schema(
        [
            _required("image_id", pa.string()),
            _required("kept", pa.bool_()),
            pa.field("reason", pa.string()),  # null where kept
            _required("score", pa.float32()),
            _required("face_size", pa.float32()),  # shorter side of the best box, pixels
            _required("faces", pa.int32()),  # faces that RetinaFace is confident of
            _required("sharpness", pa.float32()),  # variance of the Laplacian of the crop's grey levels
            _required("turn", pa.float32()),  # yaw, 0 (frontal) to 1
            _required("agreement", pa.float32()),  # IoU of RetinaFace's box and the aligner's
        ]
    ),
    "audit": pa.schema(
        [
            _required("image_id", pa.string()),
            _required("identity", pa.string()),
            _required("kept", pa.bool_()),
            pa.field("reason", pa.string()),  # null where kept
            # Least image_id of a group of near-duplicates, which stay on one side of every division; the image's own
            # where it has none.
            _required("cluster", pa.string()),
            # Least name of the identities that look like one person; the identity itself where there is no other.
            _required("person", pa.string()),
        ]
    ),
    "split": pa.schema(
        [
            _required("image_id", pa.string()),
            _required("identity", pa.string()),
            _required("split", pa.string()),  # train, val, heldout or excluded
            pa.field("reason", pa.string()),  # why it was excluded, else null
        ]
    ),
}
