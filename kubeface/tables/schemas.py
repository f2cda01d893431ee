"""The columns of every kind of table."""

import pyarrow as pa

_FACE_FIELDS = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("identity", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),  # name of the image below the data source
    pa.field("given_split", pa.string()),  # train, val or test where the source is divided, else null
    pa.field("groups", pa.string()),  # further labels as JSON: {"camera": "door", "resolution": "low"}
    pa.field("image", pa.binary(), nullable=False),  # JPEG, PNG or PPM
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
    # Of the ingested photograph, 16 hex digits each: SHA-256 of its bytes, and a perceptual hash, of which
    # near-duplicates differ in few bits.
    pa.field("content", pa.string(), nullable=False),
    pa.field("phash", pa.string(), nullable=False),
]
SCHEMAS: dict[str, pa.Schema] = {
    "faces": pa.schema(_FACE_FIELDS),
    # Landmarks (x, y of eyes, nose and mouth corners, the image's left first) and box (x1, y1, x2, y2) are in pixels of
    # the ingested photograph, not of the crop.
    "aligned": pa.schema(
        [
            *_FACE_FIELDS,
            pa.field("landmarks", pa.list_(pa.float32(), 10), nullable=False),
            pa.field("det_score", pa.float32(), nullable=False),
            pa.field("det_box", pa.list_(pa.float32(), 4), nullable=False),
            pa.field("photo_width", pa.int32()),  # of the photograph; width and height are the crop's
            pa.field("photo_height", pa.int32()),
        ]
    ),
    "filter": pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("kept", pa.bool_(), nullable=False),
            pa.field("reason", pa.string()),  # null where kept
            pa.field("score", pa.float32(), nullable=False),
            pa.field("face_size", pa.float32(), nullable=False),  # shorter side of the best box, pixels
            pa.field("faces", pa.int32(), nullable=False),  # faces that RetinaFace is confident of
            pa.field("sharpness", pa.float32(), nullable=False),  # variance of the Laplacian of the crop's grey levels
            pa.field("turn", pa.float32(), nullable=False),  # yaw, 0 (frontal) to 1
            pa.field("agreement", pa.float32(), nullable=False),  # IoU of RetinaFace's box and the aligner's
        ]
    ),
    "audit": pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("identity", pa.string(), nullable=False),
            pa.field("kept", pa.bool_(), nullable=False),
            pa.field("reason", pa.string()),  # null where kept
            # Least image_id of a group of near-duplicates, which stay on one side of every division; the image's own
            # where it has none.
            pa.field("cluster", pa.string(), nullable=False),
            # Least name of the identities that look like one person; the identity itself where there is no other.
            pa.field("person", pa.string(), nullable=False),
        ]
    ),
    "split": pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("identity", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),  # train, val, heldout or excluded
            pa.field("reason", pa.string()),  # why it was excluded, else null
        ]
    ),
}
