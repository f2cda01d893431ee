"""python -m kubeface.report --faces … --aligned … --evaluation … --html … --summary …"""

from kubeface.report.step import report
from kubeface.step_cli import main

if __name__ == "__main__":
    main(report)
