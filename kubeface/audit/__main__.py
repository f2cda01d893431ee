"""python -m kubeface.audit --aligned … --filtered … --out … --html …"""

from kubeface.audit.step import audit
from kubeface.cli import main

if __name__ == "__main__":
    main(audit)
