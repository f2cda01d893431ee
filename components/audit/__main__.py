"""python -m components.audit --aligned … --filtered … --out … --html …"""

from components.audit.step import audit
from components.faces.cli import main

if __name__ == "__main__":
    main(audit)
