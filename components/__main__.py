"""A task in its pod: KFP's executor runs a function of the component that the image carries.

python3 -m components kfp.dsl.executor_main <step> --function_to_execute <name> --executor_input <JSON>
"""

import os
import sys
from pathlib import Path


def main() -> None:
    _, step, *arguments = sys.argv[1:]
    os.environ["_KFP_RUNTIME"] = "true"  # kfp leaves its compiler out
    from kfp.dsl.executor_main import executor_main

    module = Path(__file__).with_name(step) / "component.py"
    sys.argv[1:] = ["--component_module_path", str(module), *arguments]
    executor_main()


if __name__ == "__main__":
    main()
