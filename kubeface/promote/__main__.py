"""python -m kubeface.promote run --model … --evaluation … --out … --name … --destination …

And … list, … rollback (both --destination … --name …) and … verify URI.
"""

from kubeface.cli import main
from kubeface.promote.champion import list_versions, rollback
from kubeface.promote.passport import verify
from kubeface.promote.step import promote

if __name__ == "__main__":
    main({"run": promote, "list": list_versions, "rollback": rollback, "verify": verify})
