"""python -m kubeface.split --aligned … --filtered … --out …"""

from kubeface.split.step import split
from kubeface.step_cli import main

if __name__ == "__main__":
    main(split)
