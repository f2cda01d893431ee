"""What a training consists of: options, model, data and the processes that share it."""

from dataclasses import dataclass

from kubeface.faces.degradation import Degradation
from kubeface.finetune.augment import Augmentation
from kubeface.finetune.distributed import Group
from kubeface.finetune.options import FinetuneOptions
from kubeface.finetune.training_data import TrainingData
from kubeface.models.model import FaceModel


@dataclass(frozen=True)
class TrainingSetup:
    """What a training consists of.

    Args:
        options: with those of the recipe.
        model: the model to start from; its network is trained in place.
        data: the images.
        degradation: put on training and validation crops.
        group: the processes that train together.
        workers: DataLoader processes, 0 for none.
    """

    options: FinetuneOptions
    model: FaceModel
    data: TrainingData
    degradation: Degradation
    group: Group
    workers: int

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation that the options ask for."""
        names = ("flip", "crop", "warp", "jitter", "mix", "greyscale", "blur", "jpeg", "low_resolution", "cutout")
        return Augmentation(**{name: getattr(self.options, name) for name in names})

    def announce(self, line: str) -> None:
        """Prints a line, in one process alone."""
        if self.group.main:
            print(line, flush=True)
