"""python -m components.finetune --aligned … --split … --out …"""

from components.faces.cli import main
from components.finetune.step import finetune

if __name__ == "__main__":
    main(finetune)
