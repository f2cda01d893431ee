"""Promote: hands the fine-tuned model on, if the gate found it better."""

from pathlib import Path
from typing import Any

from components.faces import storage
from components.faces.errors import require
from components.faces.folders import new_folder, read_json, sha256_file, write_json
from components.faces.runtime import VERSION
from components.promote.card import model_card

# model.json goes last: whoever reads a version starts with it, and so never finds half of one.
MODEL_FILES = ("model.safetensors", "model.onnx", "identities.json", "model.json")


def promote(
    model: Path,
    evaluation: Path,
    out: Path,
    name: str,
    destination: str,
    gathered: Path | None = None,
    audited: Path | None = None,
) -> dict[str, Any]:
    """Writes model, configuration, metrics and model card below `<destination>/<name>/<version>/`.

    Does so only where the gate says better. Where it does not, says so, and the run goes on. The version
    is made of the weights' SHA-256, so that the same model has the same address. Leaves promotion.json
    and model_card.md in `out` either way.

    Args:
        model: Model folder of finetune.
        evaluation: Folder of evaluate.
        out: Folder to write promotion.json and the model card to.
        name: Name of the model, letters, digits, - and _.
        destination: Where models are kept, s3://bucket/models or a folder.
        gathered: Folder of gather; with `audited` it is told in the model card, and left as
            `<destination>/<name>/data.json` for the next run to compare with, whatever the gate says.
        audited: Audit table, with data.json beside it.

    Returns:
        rows_in (files of the model), rows_out (files written), promoted.

    Raises:
        KubefaceError: wrong name, missing files, or a destination that cannot be written to.
    """
    require(
        bool(name) and all(letter.isalnum() or letter in "-_" for letter in name),
        f"name is '{name}': use letters, digits, - and _",
    )
    require(bool(destination), "destination is empty: give s3://bucket/models or a folder")
    config, measured = read_json(model / "model.json"), read_json(evaluation / "evaluation.json")
    gate = measured["gate"]
    version = config["weights_sha256"][:12]
    home = storage.join(destination.rstrip("/"), name)
    uri = storage.join(home, version)
    data = read_json(gathered / "data.json") if gathered else {}
    data |= read_json(audited / "data.json") if audited else {}
    with new_folder(out) as folder:
        (folder / "model_card.md").write_text(model_card(name, version, config, measured, data), "utf-8")
        write_json(folder / "metrics.json", {key: measured[key] for key in ("baseline", "finetuned", "gain", "gate")})
        names = [name for name in MODEL_FILES if name != "model.onnx" or "onnx" in config["training"]]
        files = [folder / "model_card.md", folder / "metrics.json", *(model / name for name in names)]
        write_json(
            folder / "promotion.json",
            {
                "producer": f"promote {VERSION}",
                "promoted": gate["better"],
                "reason": gate["reason"],
                "uri": uri if gate["better"] else None,
                "version": version if gate["better"] else None,
                "sha256": {file.name: sha256_file(file) for file in files},
            },
        )
        if data:
            write_json(folder / "data.json", data)
            storage.upload(folder / "data.json", storage.join(home, "data.json"))
        if gate["better"]:
            for file in files:
                storage.upload(file, storage.join(uri, file.name))
    print(f"promote: {f'promoted to {uri}' if gate['better'] else 'not promoted'}: {gate['reason']}", flush=True)
    return {"rows_in": len(files), "rows_out": len(files) if gate["better"] else 0, "promoted": gate["better"]}
