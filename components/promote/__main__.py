"""python -m components.promote --model … --evaluation … --out … --name … --destination …"""

from components.faces.cli import main
from components.promote.step import promote

if __name__ == "__main__":
    main(promote)
