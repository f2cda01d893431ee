"""python -m kubeface.split --aligned … --filtered … --out …"""

from kubeface.cli import main
from kubeface.split.step import split

if __name__ == "__main__":
    main(split)
