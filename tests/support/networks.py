"""Networks that enlarge, of which it is known what they make of an image."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from kubeface.faces.images import RGB


def nearest(path: Path, scale: int, channels: int = 3) -> Path:
    """A network (.onnx) that repeats each pixel `scale` times across and down."""
    factors = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "factors")
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", channels, "h", "w"])
    enlarged = helper.make_tensor_value_info("enlarged", TensorProto.FLOAT, ["n", channels, "sh", "sw"])
    node = helper.make_node(
        "Resize", ["images", "", "factors"], ["enlarged"], mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip
    graph = helper.make_graph([node], "nearest", [images], [enlarged], [factors])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def repeated(image: RGB, scale: int) -> RGB:
    """What that network makes of an image."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1)
