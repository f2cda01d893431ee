"""python -m kubeface.finetune --aligned … --split … --out …; in several processes through torchrun."""

from kubeface.finetune.settings import Settings
from kubeface.finetune.step import finetune
from kubeface.step_cli import main

if __name__ == "__main__":
    main(finetune, models={"settings": Settings})
