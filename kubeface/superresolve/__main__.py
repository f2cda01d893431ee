"""python -m kubeface.superresolve run --faces … --out …; train for a network, degrade for pairs."""

from kubeface.step_cli import Later, main
from kubeface.superresolve.degradation import degrade
from kubeface.superresolve.step import superresolve

if __name__ == "__main__":
    main(
        {
            "run": superresolve,
            "train": Later(
                "kubeface.superresolve.training",
                "train_superresolution",
                "Trains a network on the sharp and the few-pixel images of people who are trained on.",
            ),
            "degrade": degrade,
        }
    )
