"""python -m kubeface.align --faces … --out …"""

from kubeface.align.step import align
from kubeface.step_cli import main

if __name__ == "__main__":
    main(align)
