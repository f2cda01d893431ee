"""python -m components.split --aligned … --filtered … --out …"""

from components.faces.cli import main
from components.split.step import split

if __name__ == "__main__":
    main(split)
