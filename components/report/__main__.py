"""python -m components.report --faces … --aligned … --evaluation … --html … --summary …"""

from components.faces.cli import main
from components.report.step import report

if __name__ == "__main__":
    main(report)
