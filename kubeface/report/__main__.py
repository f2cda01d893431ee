"""python -m kubeface.report --faces … --aligned … --evaluation … --html … --summary …"""

from kubeface.cli import main
from kubeface.report.step import report

if __name__ == "__main__":
    main(report)
