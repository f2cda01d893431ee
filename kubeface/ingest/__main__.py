"""python -m kubeface.ingest --source … --out …"""

from kubeface.cli import main
from kubeface.ingest.step import ingest

if __name__ == "__main__":
    main(ingest)
