import io
from pathlib import Path

from pipelines.local.console import Console

SAID = """\
10:00:00.000 - INFO - Executing task \x1b[96m'align'\x1b[0m
10:00:00.000 - INFO - Streamed logs:

    [KFP Executor 2026-01-01 00:00:00,000 INFO]: Looking for component `align`
    [KFP Executor 2026-01-01 00:00:00,000 INFO]: Got executor_input:
    {
        "inputs": {
            "secret": {
            }
        }
    }
    align: 10/20 50 % images
        error: something
10:00:01.000 - INFO - Task \x1b[96m'align'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
10:00:01.000 - INFO - Task 'align' outputs:
    aligned: Dataset( name='aligned' )
"""


def test_the_terminal_gets_the_steps_lines_and_the_log_everything(tmp_path: Path) -> None:
    terminal = io.StringIO()
    console = Console(tmp_path / "run.log", terminal)
    for start in range(0, len(SAID), 7):  # in pieces that do not end where lines do
        console.write(SAID[start : start + 7])
    console.close()
    console.close()
    assert terminal.getvalue().splitlines() == ["── align", "   align: 10/20 50 % images", "   error: something"]
    log = (tmp_path / "run.log").read_text("utf-8")
    assert '"secret": {' in log
    assert "\x1b" not in log
