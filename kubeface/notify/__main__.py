"""python -m kubeface.notify conclude --left … --models … --name … --run …

And … notify --models … --name … --run …
"""

from kubeface.cli import main
from kubeface.notify.step import conclude, notify

if __name__ == "__main__":
    main({"conclude": conclude, "notify": notify})
