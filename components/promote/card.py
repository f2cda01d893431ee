"""The model card: what a model is, what it was trained and measured on, and where it ends.

After Mitchell et al., "Model cards for model reporting", FAT* 2019, arXiv 1810.03993; the sections are theirs.
"""

import re
from typing import Any

MODELS = {"baseline": "starting model", "finetuned": "this model"}

Json = dict[str, Any]


def model_card(name: str, version: str, config: Json, evaluation: Json, data: Json) -> str:
    """The card as Markdown; what an evaluation did not measure is left out.

    Args:
        name, version: of the model.
        config: model.json.
        evaluation: evaluation.json.
        data: what gather and audit found in the images; empty where they were not asked.
    """
    sections = {
        "Model details": _details(config),
        "Intended use": _use(config),
        "Factors": _factors(evaluation),
        "Metrics": _metrics(),
        "Evaluation data": _evaluation_data(evaluation),
        "Training data": _training_data(config["training"], data.get("erasure")),
        "Quantitative analyses": [
            *_figures(evaluation),
            *_gains(evaluation),
            *_paired(evaluation),
            *_identification(evaluation),
            *_probes(evaluation),
        ],
        "Decision threshold": _threshold(evaluation),
        "Galleries enrolled with the starting model": _compatibility(evaluation),
        "Ethical considerations": _ethics(),
        "Caveats and recommendations": _caveats(config),
    }
    lines = [
        f"# {name} {version}",
        "",
        f"A face-recognition model ({config['backbone']}, {config['embedding_size']}-d embeddings), fine-tuned from "
        f"{_code(config['start'])}.",
        "",
        f"**Verdict:** {_text(evaluation['gate']['reason'])}.",
    ]
    for title, section in sections.items():
        if section:
            lines += ["", f"## {title}", *section]
    return "\n".join(lines) + "\n"


def _details(config: Json) -> list[str]:
    training = config["training"]
    told = [
        f"- Architecture: {config['backbone']}, {config['embedding_size']}-d embeddings of unit length",
        f"- Weights: SHA-256 {_code(config['weights_sha256'])}",
        f"- Starting weights: {_code(config['start'])}, license {_text(config['start_license'])}",
    ]
    if "strategy" in training:
        told.append(
            f"- Training: strategy {training['strategy']}, {training['epochs']} epochs at most, the best one is "
            f"{training['best_epoch']}, seed {training['seed']}; every setting stands in passport.json"
        )
    return ["", *told]


def _use(config: Json) -> list[str]:
    look = config["preprocessing"]
    return [
        "",
        "To tell whether two photographs show the same person, and to search a gallery of people who are enrolled in "
        "it; as a help to a person who decides, not in the place of one.",
        "",
        f"Input: RGB faces of {look['size']}×{look['size']} pixels, aligned to the template "
        f"{_code(config['alignment']['template'])}; ({look['color_order']} − {look['mean']:g}) / {look['std']:g}. Two "
        "faces are compared by the cosine of their embeddings. A search of a gallery needs a stricter threshold than "
        "the comparison of two photographs: every person in it is one more chance of a false match.",
        "",
        "Not meant for: guessing age, gender, origin, health or feelings; watching people who do not know of it; "
        "photographs unlike those it was measured on.",
    ]


def _factors(evaluation: Json) -> list[str]:
    lines: list[str] = []
    for column, entry in evaluation.get("groups", {}).items():
        lines += [
            "",
            f"False matches (FMR) and false non-matches (FNMR) by {_text(column)}, each model at its own threshold; – "
            "where a group has too few pairs to tell:",
            "",
            *_table(
                ["group", "people", "images", "FMR before", "FMR now", "FNMR before", "FNMR now", "change of FNMR"],
                [
                    [
                        _text(row["group"]),
                        row["people"],
                        row["images"],
                        *(_percent(row[model][rate]) for rate in ("fmr", "fnmr") for model in MODELS),
                        _change(row, "fnmr_change"),
                    ]
                    for row in entry["rows"]
                ],
            ),
        ]
        worst = {
            rate.upper(): [(entry.get("worst_ratio") or {}).get(model, {}).get(rate) for model in MODELS]
            for rate in ("fmr", "fnmr")
        }
        told = [
            f"{rate} {' → '.join('–' if ratio is None else f'{ratio:.2f}' for ratio in ratios)}"
            for rate, ratios in worst.items()
            if ratios != [None, None]
        ]
        if told:
            lines += ["", f"Largest over smallest rate among the groups: {', '.join(told)}."]
    return lines


def _degraded(evaluation: Json) -> bool:
    return str(evaluation.get("degradation", "none")) != "none"


def _metrics() -> list[str]:
    return [
        "",
        "Accuracy: pairs decided rightly, the threshold taken from the other nine of ten folds. AUC: area under the "
        "ROC curve. EER: the rate at which false matches and false non-matches are equally frequent. TAR@FAR: genuine "
        "pairs accepted at a threshold that accepts that share of impostors; given only down to the rate that the "
        "impostor pairs support. Intervals come from resampling people, not pairs.",
    ]


def _evaluation_data(evaluation: Json) -> list[str]:
    told = (
        f"Measured on {evaluation['images']} images of {evaluation['people']} people who were not trained on "
        f"({evaluation['pairs']} pairs)."
    )
    if lfw := evaluation.get("lfw"):
        told += f" LFW: {lfw['pairs']} pairs, {len(lfw['fallback'])} of its images without a face that was found."
    if _degraded(evaluation):
        told += (
            f" The set heldout has the degradation {_code(evaluation['degradation'])} on every photograph, "
            "heldout\\_clean has not."
        )
    return ["", told]


def _training_data(training: Json, erasure: Json | None) -> list[str]:
    lines = [
        "",
        f"Trained on {training['images']} images of {training['identities']} people, degradation "
        f"{_code(training['degradation'])}.",
    ]
    if not erasure or not erasure["marks"]:
        return lines
    return [
        *lines,
        "",
        f"**Erasure.** {erasure['files_left_out']} images were left out since they, or the people on them, are to be "
        f"forgotten; {erasure['rows_found']} of them are among the {erasure['rows_checked']} images that remained, by "
        "name of person and file. The list has the marks below, the first 32 hex digits of the SHA-256 of each name:",
        "",
        *(f"- `{mark}`" for mark in erasure["marks"]),
    ]


def _figures(evaluation: Json) -> list[str]:
    rates = {far for figures in evaluation["finetuned"].values() for far in figures["tar_at_far"]}
    fars = sorted(rates, key=float, reverse=True)
    rows = []
    for kind in evaluation["finetuned"]:
        for model in ("baseline", "champion", "finetuned"):
            if figures := evaluation.get(model, {}).get(kind):
                shares = [figures[key] for key in ("accuracy", "auc", "eer")]
                shares += [figures["tar_at_far"].get(far) for far in fars]
                rows.append([_text(kind), model, *(_percent(share) for share in shares)])
    return ["", *_table(["set", "model", "accuracy", "AUC", "EER", *(f"TAR@FAR={far}" for far in fars)], rows)]


def _gains(evaluation: Json) -> list[str]:
    names = {"auc": "AUC", "tar": f"TAR@FAR={evaluation['gate_far']:g}"}
    lines = []
    for key, over in (("gain", "the starting model"), ("gain_over_champion", "the champion before it")):
        rows = [
            [_text(kind), names.get(figure, figure), *_before_after(entry)]
            for kind, gain in (evaluation.get(key) or {}).items()
            for figure, entry in gain.items()
        ]
        if rows:
            header = ["set", "figure", "before", "now", "change in points (95 % interval)"]
            lines += ["", f"Change over {over}:", "", *_table(header, rows)]
    return lines


def _before_after(entry: Json) -> list[str]:
    return [_percent(entry["before"]), _percent(entry["after"]), _change(entry, "gain")]


def _paired(evaluation: Json) -> list[str]:
    lines = []
    for kind, entry in (evaluation.get("paired") or {}).items():
        test, forgotten, learned = entry["mcnemar"], entry["forgotten"], entry["learned"]
        lines.append(
            f"- {_text(kind)}: {test['only_after']} pairs are decided rightly by this model alone "
            f"({learned['genuine']} genuine, {learned['impostor']} impostor) and {test['only_before']} by its starting "
            f"model alone ({forgotten['genuine']} genuine, {forgotten['impostor']} impostor: forgotten); McNemar's "
            f"exact test gives p = {test['p']:.2g}"
        )
    return ["", "Pair by pair:", "", *lines] if lines else []


def _identification(evaluation: Json) -> list[str]:
    found = evaluation.get("identification") or {}
    opens = sorted(
        {
            fpir
            for models in found.values()
            for entry in models.values()
            for fpir in (entry.get("open") or {}).get("fnir_at_fpir", {})
        },
        key=float,
        reverse=True,
    )
    rows = [
        [
            _text(kind),
            model,
            entry["gallery"],
            entry["probes"],
            *(_interval(entry, rank) for rank in ("rank1", "rank5")),
            *(_percent((entry.get("open") or {}).get("fnir_at_fpir", {}).get(fpir)) for fpir in opens),
        ]
        for kind, models in found.items()
        for model, entry in models.items()
    ]
    if not rows:
        return []
    header = ["set", "model", "people enrolled", "probes", "rank 1", "rank 5", *(f"FNIR@FPIR={fpir}" for fpir in opens)]
    return ["", "Searching a gallery of one image of each person:", "", *_table(header, rows)]


def _probes(evaluation: Json) -> list[str]:
    rows = [
        [_code(row["probe"]), *_before_after(row["gain"]["auc"]), *_before_after(row["gain"]["tar"])]
        for row in evaluation.get("probes") or []
    ]
    if not rows:
        return []
    tar = f"TAR@FAR={evaluation['gate_far']:g}"
    header = ["photographs", "AUC before", "now", "change in points", f"{tar} before", "now", "change in points"]
    return ["", "The same people in worse photographs:", "", *_table(header, rows)]


def _threshold(evaluation: Json) -> list[str]:
    entry = (evaluation.get("calibration") or {}).get("finetuned")
    if not entry:
        return []
    low, high = entry["threshold_low"], entry["threshold_high"]
    told = (
        f"{entry['threshold']:.4f} (95 % interval {low:.4f} to {high:.4f}) for a false match rate of "
        f"{_percent(entry['fmr'])}, at which {_percent(entry['fnmr'])} of genuine pairs are not matched; from "
        f"{entry['impostor_pairs']} impostor and {entry['genuine_pairs']} genuine pairs of {entry['people']} people. "
        "It is in threshold.json."
    )
    if not entry["supported"]:
        told += (
            f" The rate that was asked for, {_percent(entry['asked_fmr'])}, cannot be told from so few impostor pairs: "
            "the least rate that can be told stands in its place."
        )
    return ["", told]


def _compatibility(evaluation: Json) -> list[str]:
    entry = evaluation.get("compatibility")
    if not entry:
        return []
    if not entry["comparable"]:
        return ["", f"**Enrol anew:** {_text(entry['reason'] or 'the embeddings cannot be compared')}."]
    enrolled = ""
    if entry["gallery_still_matched"] is not None:
        enrolled = f"{_percent(entry['gallery_still_matched'])} of the people who were enrolled are still matched; "
    return [
        "",
        f"**{'The gallery can stay' if entry['stays'] else 'Enrol anew'}.** Of genuine pairs "
        f"{_interval(entry, 'old_gallery_new_probe')} match where one side was embedded by the starting model and the "
        f"other by this one, at the starting model's threshold of {entry['threshold']:.4f}; with the starting model on "
        f"both sides {_percent(entry['old_with_old'])} do, with this model on both sides, at its own threshold, "
        f"{_percent(entry['new_with_new'])} ({entry['genuine_pairs']} pairs of {entry['people']} people). {enrolled}"
        f"{_percent(entry['false_matches'])} of impostor pairs match where the sides are mixed.",
    ]


def _ethics() -> list[str]:
    return [
        "",
        "- Faces are biometric data: collect, keep and compare them only with a lawful ground, and erase them when "
        "asked to. Leaving people out takes a new training; the weights of this model stay as they are.",
        "- A false match can accuse an innocent person, a false non-match can lock somebody out. Neither is spread "
        "evenly over people: measure both for the groups that you serve, and leave the last word to a person.",
        "- Embeddings can give away the person: guard them like the photographs.",
    ]


def _caveats(config: Json) -> list[str]:
    return [
        "",
        "- The figures hold for people and cameras like those of the held-out set; measure on your own before relying "
        "on a threshold.",
        "- Embeddings of this model and of another one are not interchangeable unless it is said above that they are.",
        f"- License of the starting weights: {_text(config['start_license'])}. It may bind what is made of "
        "them, as this model is.",
    ]


def _table(header: list[str], rows: list[list[Any]]) -> list[str]:
    return [f"| {' | '.join(str(cell) for cell in row)} |" for row in (header, ["---"] * len(header), *rows)]


def _percent(share: float | None) -> str:
    """A share as per cent, with as many digits as it takes to tell a small one from nothing."""
    if share is None:
        return "–"
    return f"{100 * share:.2f} %" if share == 0 or share >= 0.001 else f"{100 * share:.2g} %"


def _interval(entry: Json, key: str) -> str:
    """A share with its interval where it has one."""
    low, high = entry.get(f"{key}_low"), entry.get(f"{key}_high")
    bounds = "" if low is None or high is None else f" ({_percent(low)} to {_percent(high)})"
    return _percent(entry.get(key)) + bounds


def _change(entry: Json, key: str) -> str:
    """A change in points with its interval."""
    low, high = entry.get(f"{key}_low"), entry.get(f"{key}_high")
    bounds = "" if low is None or high is None else f" ({_points(low)} to {_points(high)})"
    return _points(entry.get(key)) + bounds


def _points(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{round(100 * share, 2) + 0.0:+.2f}".replace("-", "−")  # + 0.0: there is no −0.00


def _text(value: Any) -> str:
    """A name out of the data, on one line and without a meaning in Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#~&!])", r"\\\1", " ".join(str(value).split()))


def _code(value: Any) -> str:
    """The same as code."""
    return f"`{' '.join(str(value).replace('`', '´').split())}`"
