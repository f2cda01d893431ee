"""python -m components.filter --faces … --aligned … --out …"""

from components.faces.cli import main
from components.filter.step import filter_faces

if __name__ == "__main__":
    main(filter_faces)
