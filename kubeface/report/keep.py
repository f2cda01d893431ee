"""Keep: the end of a run whose data have not changed, or not drifted enough, for another training."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kubeface.report.run import read_object
from kubeface.storage.folders import new_file, write_json

FIELDS = ("counts", "drift", "settings")


def keep(
    gathered: Path,
    audited: Path,
    html: Path,
    summary: Path,
    champion: str = "",
    pipeline: str = "face-finetuning",
    seed: int = 0,
) -> dict[str, Any]:
    """Tells a run that trained nothing, since the data are those of the last training: a page and a summary.

    Args:
        gathered: Folder of gather, with data.json.
        audited: Audit table, with data.json beside it.
        html: File to write the page to.
        summary: JSON file to write the figures to.
        champion: Address of the promoted model, which stays; empty where none has been promoted.
        pipeline: Name of the pipeline.
        seed: Seed of the run, to be told.

    Returns:
        rows_in (images ingested), rows_out (0, none was trained on).

    Raises:
        KubefaceError: a file is missing, corrupt or lacks a field.
    """
    data = read_object(gathered / "data.json", ("images", "identities"))
    found = read_object(audited / "data.json", FIELDS)
    drift, limit = found["drift"], found["settings"]["max_drift"]
    unchanged = "not trained: the data are the ones that the promoted model was trained on"
    reason = (
        unchanged
        if found.get("unchanged")
        else f"not trained: {drift['worst']} drifted most since the last training, by "
        f"{drift['features'][drift['worst']]:g}, and max_drift is {limit:g}"
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("kept.html").render(
        pipeline=pipeline, reason=reason, data=data, drift=drift, limit=limit, champion=champion
    )
    with new_file(html) as file:
        file.write_text(page, "utf-8", "replace")
    told = {"images": data["images"], "identities": data["identities"], "drift": drift}
    with new_file(summary) as file:
        write_json(
            file,
            {
                "pipeline": pipeline, "seed": seed, "trained": False, "reason": reason, "dataset": told,
                "model": {"uri": champion or None},
            },
        )  # fmt: skip
    print(f"keep: {reason}", flush=True)
    return {"rows_in": data["images"], "rows_out": 0}
