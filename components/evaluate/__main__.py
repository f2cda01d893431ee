"""python -m components.evaluate run --aligned … --split … --model … --out …, and lfw, compare, embed, identify."""

from components.evaluate.gate import Gate
from components.evaluate.inference import compare, embed, identify
from components.faces.cli import Later, main

STEP = "components.evaluate.step"  # takes a second to import, which the commands that only use a model do without

if __name__ == "__main__":
    main(
        {
            "run": Later(STEP, "evaluate", "Compares the fine-tuned model with its starting model."),
            "lfw": Later(STEP, "lfw", "Measures one model on LFW's View 2 (or View 1)."),
            "compare": compare,
            "embed": embed,
            "identify": identify,
        },
        models={"gate": Gate},
    )
