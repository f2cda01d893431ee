"""python -m kubeface.ingest --source … --out …"""

from kubeface.ingest.step import ingest
from kubeface.step_cli import main

if __name__ == "__main__":
    main(ingest)
