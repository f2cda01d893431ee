"""python -m components.finetune --aligned … --split … --out …; in several processes through torchrun."""

from components.faces.cli import main
from components.finetune.settings import Settings
from components.finetune.step import finetune

if __name__ == "__main__":
    main(finetune, models={"settings": Settings})
