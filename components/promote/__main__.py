"""python -m components.promote run --model … --evaluation … --out … --name … --destination …

And … list, … rollback (both --destination … --name …) and … verify URI.
"""

from components.faces.cli import main
from components.promote.champion import list_versions, rollback
from components.promote.passport import verify
from components.promote.step import promote

if __name__ == "__main__":
    main({"run": promote, "list": list_versions, "rollback": rollback, "verify": verify})
