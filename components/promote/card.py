"""The model card: what a model is, what it was trained and measured on, and where it ends.

After Mitchell et al., "Model cards for model reporting", FAT* 2019, arXiv 1810.03993.
"""

from typing import Any


def model_card(
    name: str, version: str, config: dict[str, Any], evaluation: dict[str, Any], data: dict[str, Any]
) -> str:
    """The card as Markdown.

    Args:
        name, version: of the model.
        config: model.json.
        evaluation: evaluation.json.
        data: what gather and audit found in the images; empty where they were not asked.
    """
    training = config["training"]
    lines = [
        f"# {name} {version}",
        "",
        f"A face-recognition model ({config['backbone']}, {config['embedding_size']}-d embeddings), fine-tuned from "
        f"`{config['start']}`.",
        "",
        f"**Verdict:** {evaluation['gate']['reason']}.",
        "",
        "## Use",
        "",
        f"Input: RGB faces of {config['preprocessing']['size']}×{config['preprocessing']['size']} pixels, aligned to "
        f"the template `{config['alignment']['template']}`; ({config['preprocessing']['color_order']} − "
        f"{config['preprocessing']['mean']:g}) / {config['preprocessing']['std']:g}. Two faces are compared by the "
        "cosine of their embeddings.",
        "",
        "## Data",
        "",
        f"Trained on {training['images']} images of {training['identities']} people, degradation "
        f"`{training['degradation']}`. Measured on {evaluation['images']} images of {evaluation['people']} other "
        f"people ({evaluation['pairs']} pairs).",
        "",
        *_erasure(data.get("erasure")),
        "## Figures",
        "",
        "| set | model | accuracy | AUC | EER | " + " | ".join(f"TAR@FAR={far}" for far in _fars(evaluation)) + " |",
        "|---|---|---|---|---|" + "---|" * len(_fars(evaluation)),
        *(_row(name, which, evaluation) for name in evaluation["finetuned"] for which in ("baseline", "finetuned")),
        "",
        "## Limits",
        "",
        "- Embeddings of this model and of its starting model are not interchangeable: enrol galleries anew.",
        "- The figures hold for people and cameras like those of the held-out set; measure on your own before relying "
        "on a threshold.",
        f"- License of the starting weights: {config['start_license']}.",
        "",
    ]
    return "\n".join(lines)


def _erasure(erasure: dict[str, Any] | None) -> list[str]:
    """The proof that those who are to be forgotten are not in the model's data."""
    if not erasure or not erasure["marks"]:
        return []
    return [
        f"**Erasure.** {erasure['files_left_out']} images were left out since they, or the people on them, are to be "
        f"forgotten; {erasure['rows_found']} of them are among the {erasure['rows_checked']} images that remained, by "
        "name of person and file. The list has the marks below, the first 32 hex digits of the SHA-256 of each name:",
        "",
        *(f"- `{mark}`" for mark in erasure["marks"]),
        "",
    ]


def _fars(evaluation: dict[str, Any]) -> list[str]:
    """Every false accept rate measured in any set, largest first."""
    rates = {far for figures in evaluation["finetuned"].values() for far in figures["tar_at_far"]}
    return sorted(rates, key=float, reverse=True)


def _row(name: str, which: str, evaluation: dict[str, Any]) -> str:
    figures = evaluation[which][name]
    shares = [figures["accuracy"], figures["auc"], figures["eer"]]
    shares += [figures["tar_at_far"].get(far) for far in _fars(evaluation)]
    return f"| {name} | {which} | " + " | ".join("–" if v is None else f"{100 * v:.2f} %" for v in shares) + " |"
