"""Face models of Keras' as .keras archives; run in a process of its own, for Keras reads its backend once."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

CLASSES = 10
RANGES = {
    "gamma": (0.5, 1.5), "beta": (-0.3, 0.3), "moving_mean": (-0.3, 0.3), "moving_variance": (0.5, 2.0),
    "bias": (-0.3, 0.3),
}  # fmt: skip


class CosFace(layers.Layer):  # type: ignore[misc]
    """A classifier of embeddings, or of [embeddings, labels], that Keras knows nothing of."""

    def build(self, shape: Any) -> None:
        embeddings = shape[0] if isinstance(shape[0], list | tuple) else shape
        self.W = self.add_weight(shape=(embeddings[-1], CLASSES), name="W")

    def call(self, inputs: Any) -> Any:
        embeddings = inputs[0] if isinstance(inputs, list | tuple) else inputs
        return keras.ops.matmul(keras.ops.normalize(embeddings), keras.ops.normalize(self.W, axis=0))


@keras.saving.register_keras_serializable("faces")
class RegisteredHead(CosFace):
    pass


def write_models(folder: Path) -> None:
    """Saves face models with random weights as <name>.keras, with Keras' embeddings of crops.npy in <name>.npy, of
    `pooled` also those of crops prepared as Keras does (usual.npy); and
    archives of models that are not to be read, without weights."""
    keras.utils.set_random_seed(3)
    _write_face_models(folder)
    _write_other_models(folder)


def _resnet(**settings: Any) -> Any:
    return keras.applications.ResNet50(include_top=False, weights=None, **settings)


def _write_face_models(folder: Path) -> None:
    random = np.random.default_rng(3)
    images, labels = keras.Input((112, 112, 3)), keras.Input((), dtype="int32")
    pooled = layers.GlobalAveragePooling2D()(_resnet(input_shape=(112, 112, 3))(images, training=False))
    embedding = layers.Dense(64, use_bias=False)(layers.Dropout(0.3)(pooled))
    embedding = layers.BatchNormalization()(embedding)
    model = keras.Model([images, labels], CosFace()([embedding, labels]))
    model.compile("adam", "sparse_categorical_crossentropy")
    _save(folder, random, "nested", model, embedding)

    images = keras.Input((None, None, 3))
    pooled = layers.GlobalAveragePooling2D()(_resnet(input_tensor=images).output)
    logits = RegisteredHead()(layers.Dropout(0.3)(pooled))
    _save(folder, random, "flat", keras.Model(images, layers.Softmax()(logits)), pooled)

    images = keras.Input((112, 112, 3))
    base = _resnet(input_shape=(112, 112, 3), pooling="avg")
    base.trainable = False
    embedding = layers.Dense(64)(base(images))
    classifier = layers.Dense(CLASSES, activation="softmax")(embedding)
    encoder = _save(folder, random, "pooled", keras.Model(images, classifier), embedding)
    crops = np.load(folder / "crops.npy").astype(np.float32)
    np.save(folder / "usual.npy", encoder.predict(keras.applications.resnet50.preprocess_input(crops), verbose=0))

    model = keras.Sequential(
        [
            _resnet(input_shape=(112, 112, 3)), layers.GlobalAveragePooling2D(), layers.Dropout(0.3),
            layers.BatchNormalization(scale=False, epsilon=2e-5), layers.Dense(64),
            layers.BatchNormalization(center=False), layers.UnitNormalization(),
        ]
    )  # fmt: skip
    _save(folder, random, "sequential", model, model.layers[-1].output)


def _save(folder: Path, random: np.random.Generator, name: str, model: Any, embedding: Any) -> Any:
    for variable in model.variables:
        if variable.name in RANGES:
            variable.assign(random.uniform(*RANGES[variable.name], variable.shape))
    model.save(folder / f"{name}.keras")
    encoder = keras.Model(model.inputs[0], embedding)
    crops = (np.load(folder / "crops.npy").astype(np.float32) - 127.5) / 128
    np.save(folder / f"{name}.npy", encoder.predict(crops, verbose=0))
    return encoder


def _write_other_models(folder: Path) -> None:
    shape = {"include_top": False, "weights": None, "input_shape": (112, 112, 3)}
    base = _resnet(input_shape=(112, 112, 3))
    _save_config(folder, "mobilenet", _pooling_behind(keras.applications.MobileNet(**shape)))
    _save_config(folder, "resnet101", _pooling_behind(keras.applications.ResNet101(**shape)))
    _save_config(folder, "resnet50v2", _pooling_behind(keras.applications.ResNet50V2(**shape)))
    _save_config(folder, "flatten", keras.Sequential([base, layers.Flatten(), layers.Dense(64)]))
    _save_config(folder, "maximum", keras.Sequential([base, layers.GlobalMaxPooling2D(), layers.Dense(64)]))
    _save_config(
        folder,
        "rescaling",
        _pooling_behind(keras.Sequential([keras.Input((112, 112, 3)), layers.Rescaling(2.0), base])),
    )
    _save_config(folder, "activated", _pooling_behind(base, layers.Dense(64, activation="relu"), layers.Dense(CLASSES)))
    _save_config(folder, "lambda", _pooling_behind(base, layers.Lambda(lambda x: x * 2)))
    _save_config(folder, "custom", _pooling_behind(base, CosFace(), layers.Dense(CLASSES)))
    _save_config(folder, "normalised", _pooling_behind(base, layers.UnitNormalization(), layers.Dense(64), CosFace()))
    _save_config(folder, "oblong", _pooling_behind(_resnet(input_shape=(112, 96, 3))))
    images, others = keras.Input((112, 112, 3)), keras.Input((112, 112, 3))
    pair = layers.Concatenate()([base(images), base(others)])
    _save_config(folder, "siamese", keras.Model([images, others], layers.GlobalAveragePooling2D()(pair)))
    pooled = layers.GlobalAveragePooling2D()(base(images))
    _save_config(
        folder, "branches", keras.Model(images, layers.Add()([layers.Dense(8)(pooled), layers.Dense(8)(pooled)]))
    )


def _save_config(folder: Path, name: str, model: Any) -> None:
    with zipfile.ZipFile(folder / f"{name}.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(keras.saving.serialize_keras_object(model)))


def _pooling_behind(base: Any, *others: Any) -> Any:
    return keras.Sequential([base, layers.GlobalAveragePooling2D(), *others])


if __name__ == "__main__":
    write_models(Path(sys.argv[1]))
