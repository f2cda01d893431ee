"""python -m components.ingest --source … --out …"""

from components.faces.cli import main
from components.ingest.step import ingest

if __name__ == "__main__":
    main(ingest)
