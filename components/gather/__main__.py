"""python -m components.gather --faces … --aligned … --filtered … --out …"""

from components.faces.cli import main
from components.gather.step import gather

if __name__ == "__main__":
    main(gather)
