"""python -m components.notify conclude --left … --models … --name … --run …

And … notify --models … --name … --run …
"""

from components.faces.cli import main
from components.notify.step import conclude, notify

if __name__ == "__main__":
    main({"conclude": conclude, "notify": notify})
