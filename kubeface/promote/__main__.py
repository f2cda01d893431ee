"""python -m kubeface.promote run --model … --evaluation … --out … --name … --destination …

And … list, … rollback (both --destination … --name …) and … verify URI.
"""

from kubeface.promote.champion import list_versions, rollback
from kubeface.promote.passport import verify
from kubeface.promote.step import promote
from kubeface.step_cli import main

if __name__ == "__main__":
    main({"run": promote, "list": list_versions, "rollback": rollback, "verify": verify})
