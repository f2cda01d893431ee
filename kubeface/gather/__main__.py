"""python -m kubeface.gather --faces … --aligned … --filtered … --out …"""

from kubeface.gather.step import gather
from kubeface.step_cli import main

if __name__ == "__main__":
    main(gather)
