"""python -m kubeface.filter --faces … --aligned … --out …"""

from kubeface.cli import main
from kubeface.filter.step import filter_faces

if __name__ == "__main__":
    main(filter_faces)
