"""python -m kubeface.filter --faces … --aligned … --out …"""

from kubeface.filter.step import filter_faces
from kubeface.step_cli import main

if __name__ == "__main__":
    main(filter_faces)
