"""python -m kubeface.audit --aligned … --filtered … --out … --html …"""

from kubeface.audit.step import audit
from kubeface.step_cli import main

if __name__ == "__main__":
    main(audit)
