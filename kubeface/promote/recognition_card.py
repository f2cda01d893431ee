"""What the model card says of a recognition model."""

from kubeface.promote.card_parts import (
    Json,
    Section,
    before_after,
    change,
    code,
    degradation,
    gains,
    image_input,
    interval,
    percent,
    table,
    text,
)

MODELS = {"baseline": "starting model", "finetuned": "this model"}
AGAINST = {"cross": "sharp", "same": "as few pixels"}  # what a photograph of few pixels is compared with
ETHICS = (
    "- A false match can accuse an innocent person, a false non-match can lock somebody out. Neither is spread "
    "evenly over people: measure both for the groups that you serve, and leave the last word to a person.",
    "- Embeddings can give away the person: guard them like the photographs.",
)
CAVEATS = (
    "- Embeddings of this model and of another one are not interchangeable unless it is said above that they are.",
)


def told(config: Json, evaluation: Json) -> dict[str, Section]:
    """The sections that are recognition's own, by title."""
    return {
        "Intended use": _use(config),
        "Factors": _factors(evaluation),
        "Metrics": _metrics(),
        "Evaluation data": _evaluation_data(evaluation),
        "Quantitative analyses": [
            *_figures(evaluation),
            *gains(evaluation),
            *_paired(evaluation),
            *_identification(evaluation),
            *_probes(evaluation),
            *_resolutions(evaluation),
        ],
        "Decision threshold": _threshold(evaluation),
        "Galleries enrolled with the starting model": _compatibility(evaluation),
    }


def _use(config: Json) -> Section:
    network, enlarged = config.get("superresolution"), ""
    if network:
        side = config["alignment"]["size"] // network["scale"]
        enlarged = (
            f" A face that fills fewer than {side}×{side} pixels of its photograph goes through the super-resolution "
            f"network superresolution.onnx ({code(network['name'])}) before it is embedded."
        )
    return [
        "",
        "To tell whether two photographs show the same person, and to search a gallery of people who are enrolled in "
        "it; as a help to a person who decides, not in the place of one.",
        "",
        f"{image_input(config, 'faces')}{enlarged} Two faces are compared by the cosine of their "
        "embeddings. A search of a gallery needs a stricter threshold than the comparison of two photographs: every "
        "person in it is one more chance of a false match.",
        "",
        "Not meant for: guessing age, gender, origin, health or feelings; watching people who do not know of it; "
        "photographs unlike those it was measured on.",
    ]


def _factors(evaluation: Json) -> Section:
    lines: list[str] = []
    for column, entry in evaluation.get("groups", {}).items():
        lines += [
            "",
            f"False matches (FMR) and false non-matches (FNMR) by {text(column)}, each model at its own threshold; – "
            "where a group has too few pairs to tell:",
            "",
            *table(
                ["group", "people", "images", "FMR before", "FMR now", "FNMR before", "FNMR now", "change of FNMR"],
                [
                    [
                        text(row["group"]),
                        row["people"],
                        row["images"],
                        *(percent(row[model][rate]) for rate in ("fmr", "fnmr") for model in MODELS),
                        change(row, "fnmr_change"),
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


def _metrics() -> Section:
    return [
        "",
        "Accuracy: pairs decided rightly, the threshold taken from the other nine of ten folds. AUC: area under the "
        "ROC curve. EER: the rate at which false matches and false non-matches are equally frequent. TAR@FAR: genuine "
        "pairs accepted at a threshold that accepts that share of impostors; given only down to the rate that the "
        "impostor pairs support. Intervals come from resampling people, not pairs.",
    ]


def _evaluation_data(evaluation: Json) -> Section:
    told = (
        f"Measured on {evaluation['images']} images of {evaluation['people']} people who were not trained on "
        f"({evaluation['pairs']} pairs)."
    )
    if lfw := evaluation.get("lfw"):
        told += f" LFW: {lfw['pairs']} pairs, {len(lfw['fallback'])} of its images without a face that was found."
    return ["", told + degradation(evaluation)]


def _figures(evaluation: Json) -> Section:
    rates = {far for figures in evaluation["finetuned"].values() for far in figures["tar_at_far"]}
    fars = sorted(rates, key=float, reverse=True)
    rows = []
    for kind in evaluation["finetuned"]:
        for model in ("baseline", "champion", "finetuned"):
            if figures := evaluation.get(model, {}).get(kind):
                shares = [figures[key] for key in ("accuracy", "auc", "eer")]
                shares += [figures["tar_at_far"].get(far) for far in fars]
                rows.append([text(kind), model, *(percent(share) for share in shares)])
    return ["", *table(["set", "model", "accuracy", "AUC", "EER", *(f"TAR@FAR={far}" for far in fars)], rows)]


def _paired(evaluation: Json) -> Section:
    lines = []
    for kind, entry in (evaluation.get("paired") or {}).items():
        test, forgotten, learned = entry["mcnemar"], entry["forgotten"], entry["learned"]
        lines.append(
            f"- {text(kind)}: {test['only_after']} pairs are decided rightly by this model alone "
            f"({learned['genuine']} genuine, {learned['impostor']} impostor) and {test['only_before']} by its starting "
            f"model alone ({forgotten['genuine']} genuine, {forgotten['impostor']} impostor: forgotten); McNemar's "
            f"exact test gives p = {test['p']:.2g}"
        )
    return ["", "Pair by pair:", "", *lines] if lines else []


def _identification(evaluation: Json) -> Section:
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
            text(kind),
            model,
            entry["gallery"],
            entry["probes"],
            *(interval(entry, rank) for rank in ("rank1", "rank5")),
            *(percent((entry.get("open") or {}).get("fnir_at_fpir", {}).get(fpir)) for fpir in opens),
        ]
        for kind, models in found.items()
        for model, entry in models.items()
    ]
    if not rows:
        return []
    header = ["set", "model", "people enrolled", "probes", "rank 1", "rank 5", *(f"FNIR@FPIR={fpir}" for fpir in opens)]
    return ["", "Searching a gallery of one image of each person:", "", *table(header, rows)]


def _probes(evaluation: Json) -> Section:
    rows = [
        [code(row["probe"]), *before_after(row["gain"]["auc"]), *before_after(row["gain"]["tar"])]
        for row in evaluation.get("probes") or []
    ]
    if not rows:
        return []
    tar = f"TAR@FAR={evaluation['gate_far']:g}"
    header = ["photographs", "AUC before", "now", "change in points", f"{tar} before", "now", "change in points"]
    return ["", "The same people in worse photographs:", "", *table(header, rows)]


def _resolutions(evaluation: Json) -> Section:
    """Every size that was measured, and how."""
    told = evaluation.get("resolutions") or {}
    rows = [
        [
            size(row["size"]),
            against,
            row["images"],
            row["people"],
            *before_after(row[kind]["gain"]["auc"]),
            *before_after(row[kind]["gain"]["accuracy_fixed"]),
        ]
        for row in told.get("rows", [])
        for kind, against in ({"same": "sharp"} if row["size"] == "clean" else AGAINST).items()
    ]
    if not rows:
        return []
    few = evaluation.get("few_pixels") or {}
    came = "taken by a camera, each of the nearest size" if few.get("paired") else "made of sharp ones"
    left_out = [size(entry["size"]) for entry in told.get("left_out", [])]
    lines = [
        "",
        f"Measured at {', '.join(dict.fromkeys(row[0] for row in rows))}; faces of few pixels were {came}"
        + ("" if few.get("paired") else f" and enlarged by {code(few.get('superresolver', 'bicubic'))}")
        + f". The fixed threshold, {told['threshold']:.4f}, is the starting model's on sharp photographs at a false "
        f"match rate of {percent(told['fmr'])}, as a system in use has set it."
        + (f" Too few photographs to tell of: {', '.join(left_out)}." if left_out else ""),
        "",
    ]
    fixed = "accuracy at the fixed threshold"
    header = ["size", "against", "images", "people", "AUC before", "now", "change in points"]
    return [*lines, *table([*header, f"{fixed} before", "now", "change in points"], rows)]


def size(name: str) -> str:
    """A size of a crop in words."""
    return "sharp" if name == "clean" else f"{name} pixels"


def _threshold(evaluation: Json) -> Section:
    entry = (evaluation.get("calibration") or {}).get("finetuned")
    if not entry:
        return []
    low, high = entry["threshold_low"], entry["threshold_high"]
    told = (
        f"{entry['threshold']:.4f} (95 % interval {low:.4f} to {high:.4f}) for a false match rate of "
        f"{percent(entry['fmr'])}, at which {percent(entry['fnmr'])} of genuine pairs are not matched; from "
        f"{entry['impostor_pairs']} impostor and {entry['genuine_pairs']} genuine pairs of {entry['people']} people"
        + (f" of the set {text(evaluation['calibrated_on'])}" if evaluation.get("calibrated_on") else "")
        + ". It is in threshold.json."
    )
    if not entry["supported"]:
        told += (
            f" The rate that was asked for, {percent(entry['asked_fmr'])}, cannot be told from so few impostor pairs: "
            "the least rate that can be told stands in its place."
        )
    return ["", told]


def _compatibility(evaluation: Json) -> Section:
    entry = evaluation.get("compatibility")
    if not entry:
        return []
    if not entry["comparable"]:
        return ["", f"**Enrol anew:** {text(entry['reason'] or 'the embeddings cannot be compared')}."]
    enrolled = ""
    if entry["gallery_still_matched"] is not None:
        enrolled = f"{percent(entry['gallery_still_matched'])} of the people who were enrolled are still matched; "
    return [
        "",
        f"**{'The gallery can stay' if entry['stays'] else 'Enrol anew'}.** Of genuine pairs "
        f"{interval(entry, 'old_gallery_new_probe')} match where one side was embedded by the starting model and the "
        f"other by this one, at the starting model's threshold of {entry['threshold']:.4f}; with the starting model on "
        f"both sides {percent(entry['old_with_old'])} do, with this model on both sides, at its own threshold, "
        f"{percent(entry['new_with_new'])} ({entry['genuine_pairs']} pairs of {entry['people']} people). {enrolled}"
        f"{percent(entry['false_matches'])} of impostor pairs match where the sides are mixed.",
    ]
