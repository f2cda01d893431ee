"""python -m kubeface.notify conclude --left … --models … --name … --run …

And … notify --models … --name … --run …
"""

from kubeface.notify.step import conclude, notify
from kubeface.step_cli import main

if __name__ == "__main__":
    main({"conclude": conclude, "notify": notify})
