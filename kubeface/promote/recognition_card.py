"""The model card of recognition."""

from kubeface.promote.card_sections import Sections, TaskCard, degradation, gain_cells, gain_tables, image_input
from kubeface.promote.markdown import Lines, change, code, interval, percent, table, text
from kubeface.records.evaluation import RecognitionEvaluation
from kubeface.records.model import ModelRecord
from kubeface.records.recognition_figures import GroupColumn


def sections(model: ModelRecord, evaluation: RecognitionEvaluation) -> Sections:
    """The sections of recognition alone, by title."""
    return {
        "Intended use": _use(model),
        "Factors": _factors(evaluation),
        "Metrics": _metrics(),
        "Evaluation data": _evaluation_data(evaluation),
        "Quantitative analyses": [
            *_figures(evaluation),
            *gain_tables(evaluation),
            *_paired(evaluation),
            *_identification(evaluation),
            *_probes(evaluation),
            *_resolutions(evaluation),
        ],
        "Decision threshold": _threshold(evaluation),
        "Galleries enrolled with the starting model": _compatibility(evaluation),
    }


def _use(model: ModelRecord) -> Lines:
    network, enlarged = model.superresolution, ""
    if network:
        side = model.alignment.size // network.scale
        enlarged = (
            f" A face that fills fewer than {side}×{side} pixels of its photograph goes through the super-resolution "
            f"network superresolution.onnx ({code(network.name)}) before it is embedded."
        )
    return [
        "",
        "To tell whether two photographs show the same person, and to search a gallery of people who are enrolled in "
        "it; as a help to a person who decides, not in the place of one.",
        "",
        f"{image_input(model, 'faces')}{enlarged} Two faces are compared by the cosine of their "
        "embeddings. A search of a gallery needs a stricter threshold than the comparison of two photographs: every "
        "person in it is one more chance of a false match.",
        "",
        "Not meant for: guessing age, gender, origin, health or feelings; watching people who do not know of it; "
        "photographs unlike those it was measured on.",
    ]


def _factors(evaluation: RecognitionEvaluation) -> Lines:
    return [line for name, column in evaluation.groups.items() for line in _group_column(name, column)]


def _group_column(name: str, column: GroupColumn) -> Lines:
    """The table of a group column, and the ratio of its extremes."""
    rows = [
        [
            text(row.group),
            row.people,
            row.images,
            *(percent(rates.fmr) for rates in (row.baseline, row.finetuned)),
            *(percent(rates.fnmr) for rates in (row.baseline, row.finetuned)),
            change(row.fnmr_change, row.fnmr_change_low, row.fnmr_change_high),
        ]
        for row in column.rows
    ]
    lines = [
        "",
        f"False matches (FMR) and false non-matches (FNMR) by {text(name)}, each model at its own threshold; – where a "
        "group has too few pairs:",
        "",
        *table(
            ["group", "people", "images", "FMR before", "FMR now", "FNMR before", "FNMR now", "change of FNMR"], rows
        ),
    ]
    ratios = [column.worst_ratio.get(model) for model in ("baseline", "finetuned")]
    extremes = []
    for rate, values in (
        ("FMR", [ratio.fmr if ratio else None for ratio in ratios]),
        ("FNMR", [ratio.fnmr if ratio else None for ratio in ratios]),
    ):
        if values != [None, None]:
            extremes.append(f"{rate} {' → '.join('–' if value is None else f'{value:.2f}' for value in values)}")
    return [*lines, "", f"Largest over smallest rate among the groups: {', '.join(extremes)}."] if extremes else lines


def _metrics() -> Lines:
    return [
        "",
        "Accuracy: pairs decided correctly, the threshold taken from the other nine of ten folds. AUC: area under the "
        "ROC curve. EER: the rate at which false matches and false non-matches are equally frequent. TAR@FAR: genuine "
        "pairs accepted at a threshold that accepts that share of impostors; given only down to the rate that the "
        "impostor pairs support. Intervals come from resampling people, not pairs.",
    ]


def _evaluation_data(evaluation: RecognitionEvaluation) -> Lines:
    sentence = (
        f"Measured on {evaluation.images} images of {evaluation.people} people who were not trained on "
        f"({evaluation.pairs} pairs)."
    )
    if lfw := evaluation.lfw:
        sentence += f" LFW: {lfw.pairs} pairs, {len(lfw.fallback)} of its images without a face that was found."
    return ["", sentence + degradation(evaluation)]


def _figures(evaluation: RecognitionEvaluation) -> Lines:
    rates = {far for figures in evaluation.finetuned.values() for far in figures.tar_at_far}
    fars = sorted(rates, key=float, reverse=True)
    by_model = {
        "baseline": evaluation.baseline,
        "champion": evaluation.champion,
        "finetuned": evaluation.finetuned,
    }
    rows = [
        [
            text(name),
            model,
            *(percent(share) for share in (figures.accuracy, figures.auc, figures.eer)),
            *(percent(figures.tar_at_far.get(far)) for far in fars),
        ]
        for name in evaluation.finetuned
        for model, sets in by_model.items()
        if (figures := sets.get(name))
    ]
    return ["", *table(["set", "model", "accuracy", "AUC", "EER", *(f"TAR@FAR={far}" for far in fars)], rows)]


def _paired(evaluation: RecognitionEvaluation) -> Lines:
    lines = [
        f"- {text(name)}: {paired.mcnemar.only_after} pairs are decided correctly by this model alone "
        f"({paired.learned.genuine} genuine, {paired.learned.impostor} impostor) and {paired.mcnemar.only_before} by "
        f"its starting model alone ({paired.forgotten.genuine} genuine, {paired.forgotten.impostor} impostor: "
        f"forgotten); McNemar's exact test gives p = {paired.mcnemar.p:.2g}"
        for name, paired in evaluation.paired.items()
    ]
    return ["", "Pair by pair:", "", *lines] if lines else []


def _identification(evaluation: RecognitionEvaluation) -> Lines:
    found = evaluation.identification
    rates = {fpir for models in found.values() for entry in models.values() for fpir in entry.open.fnir_at_fpir}
    fpirs = sorted(rates, key=float, reverse=True)
    rows = [
        [
            text(name),
            model,
            entry.gallery,
            entry.probes,
            interval(entry.rank1, entry.rank1_low, entry.rank1_high),
            interval(entry.rank5, entry.rank5_low, entry.rank5_high),
            *(percent(entry.open.fnir_at_fpir.get(fpir)) for fpir in fpirs),
        ]
        for name, models in found.items()
        for model, entry in models.items()
    ]
    header = [
        "set", "model", "people enrolled", "probes", "rank 1", "rank 5", *(f"FNIR@FPIR={fpir}" for fpir in fpirs),
    ]  # fmt: skip
    return ["", "Searching a gallery of one image of each person:", "", *table(header, rows)] if rows else []


def _probes(evaluation: RecognitionEvaluation) -> Lines:
    rows = [
        [code(row.probe), *gain_cells(row.gain["auc"]), *gain_cells(row.gain["tar"])] for row in evaluation.probes or []
    ]
    tar = f"TAR@FAR={evaluation.gate_far:g}"
    header = ["photographs", "AUC before", "now", "change in points", f"{tar} before", "now", "change in points"]
    return ["", "The same people in worse photographs:", "", *table(header, rows)] if rows else []


def _resolutions(evaluation: RecognitionEvaluation) -> Lines:
    """Every size that was measured, and how."""
    measured, origin = evaluation.resolutions, evaluation.low_resolution
    if measured is None or not measured.rows:
        return []
    rows = [
        [
            size_name(row.size),
            against,
            row.images,
            row.people,
            *gain_cells(pairs.gain["auc"]),
            *gain_cells(pairs.gain["accuracy_fixed"]),
        ]
        for row in measured.rows
        for against, pairs in (
            [("sharp", row.same)] if row.size == "clean" else [("sharp", row.cross), ("low resolution", row.same)]
        )
    ]
    if origin and origin.paired:
        made = "taken by a camera, each of the nearest size"
    else:
        made = f"made of sharp ones and enlarged by {code(origin.superresolver if origin else 'bicubic')}"
    left_out = [size_name(entry.size) for entry in measured.left_out]
    sizes = ", ".join(dict.fromkeys(size_name(row.size) for row in measured.rows))
    lines = [
        "",
        f"Measured at {sizes}; low-resolution faces were {made}. The fixed threshold, {measured.threshold:.4f}, is the "
        f"starting model's on sharp photographs at a false match rate of {percent(measured.fmr)}, as a system in use "
        "has set it." + (f" Too few photographs to measure: {', '.join(left_out)}." if left_out else ""),
        "",
    ]
    fixed = "accuracy at the fixed threshold"
    header = ["size", "against", "images", "people", "AUC before", "now", "change in points"]
    return [*lines, *table([*header, f"{fixed} before", "now", "change in points"], rows)]


def size_name(size: str) -> str:
    """A size of a crop in words."""
    return "sharp" if size == "clean" else f"{size} pixels"


def _threshold(evaluation: RecognitionEvaluation) -> Lines:
    entry = evaluation.calibration.get("finetuned")
    if not entry:
        return []
    sentence = (
        f"{entry.threshold:.4f} (95 % interval {entry.threshold_low:.4f} to {entry.threshold_high:.4f}) for a false "
        f"match rate of {percent(entry.fmr)}, at which {percent(entry.fnmr)} of genuine pairs are not matched; from "
        f"{entry.impostor_pairs} impostor and {entry.genuine_pairs} genuine pairs of {entry.people} people"
        + (f" of the set {text(evaluation.calibrated_on)}" if evaluation.calibrated_on else "")
        + ". It is in threshold.json."
    )
    if not entry.supported:
        sentence += (
            f" The rate that was asked for, {percent(entry.asked_fmr)}, cannot be estimated from so few impostor "
            "pairs: the lowest rate that can stands in its place."
        )
    return ["", sentence]


def _compatibility(evaluation: RecognitionEvaluation) -> Lines:
    entry = evaluation.compatibility
    if not entry:
        return []
    if not entry.comparable:
        return ["", f"**Enrol anew:** {text(entry.reason or 'the embeddings cannot be compared')}."]
    enrolled = ""
    if entry.gallery_still_matched is not None:
        enrolled = f"{percent(entry.gallery_still_matched)} of the people who were enrolled are still matched; "
    matched = interval(entry.old_gallery_new_probe, entry.old_gallery_new_probe_low, entry.old_gallery_new_probe_high)
    return [
        "",
        f"**{'The gallery can stay' if entry.stays else 'Enrol anew'}.** Of genuine pairs {matched} match where one "
        "side was embedded by the starting model and the other by this one, at the starting model's threshold of "
        f"{entry.threshold:.4f}; with the starting model on both sides {percent(entry.old_with_old)} do, with this "
        f"model on both sides, at its own threshold, {percent(entry.new_with_new)} ({entry.genuine_pairs} pairs of "
        f"{entry.people} people). {enrolled}{percent(entry.false_matches)} of impostor pairs match where the sides are "
        "mixed.",
    ]


CARD = TaskCard(
    kind="face-recognition model",
    people="people",
    sections=sections,
    ethics=(
        "- A false match can accuse an innocent person, a false non-match can lock somebody out. Neither is spread "
        "evenly over people: measure both for the groups that you serve, and leave the last word to a person.",
        "- Embeddings can give away the person: guard them like the photographs.",
    ),
    caveats=(
        "- Embeddings of this model and of another one are not interchangeable unless it is said above that they are.",
    ),
)
