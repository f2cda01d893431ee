"""python -m components.align --faces … --out …"""

from components.align.step import align
from components.faces.cli import main

if __name__ == "__main__":
    main(align)
