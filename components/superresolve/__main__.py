"""python -m components.superresolve run --faces … --out …; train for a network, degrade for pairs."""

from components.faces.cli import Later, main
from components.superresolve.degradation import degrade
from components.superresolve.step import superresolve

if __name__ == "__main__":
    main(
        {
            "run": superresolve,
            "train": Later(
                "components.superresolve.training",
                "train_superresolution",
                "Trains a network on the sharp and the few-pixel images of people who are trained on.",
            ),
            "degrade": degrade,
        }
    )
