"""python -m components.evaluate run --aligned … --split … --model … --out …, and … lfw --archive … --pairs …"""

from components.evaluate.step import evaluate, lfw
from components.faces.cli import main

if __name__ == "__main__":
    main({"run": evaluate, "lfw": lfw})
