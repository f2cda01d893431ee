"""python -m kubeface.gather --faces … --aligned … --filtered … --out …"""

from kubeface.cli import main
from kubeface.gather.step import gather

if __name__ == "__main__":
    main(gather)
