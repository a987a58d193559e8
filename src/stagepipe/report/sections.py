"""The parts of the page, from the data to the cost."""

from html import escape

from stagepipe.metrics import METRICS
from stagepipe.report.collect import Collected
from stagepipe.report.markup import Cell, details, figure, section, table, text
from stagepipe.report.summaries import (
    cost_table,
    dataset_iou,
    fold_table,
    headline_run,
    score_table,
    training_rates,
    words,
)
from stagepipe.scores import ALL_EMPTY

MANY_FAULTS = 200


def data(found: Collected, drawn: dict[str, bytes]) -> str:
    """Counts, sizes, mask sizes and what was quarantined."""
    rows: list[list[Cell]] = []
    for split in ("train", "test"):
        part = found.samples[found.samples["split"] == split]
        labelled = part[part["empty"].notna()]
        masks = [int(labelled["empty"].sum()), float(labelled["foreground"].mean())] if found.single else []
        rows.append([str(split), len(part), len(labelled), int(part["black"].sum()), *masks])
    of_masks = ["empty mask", "mean foreground"] if found.single else []
    counts = table(["split", "images", "labelled", "black", *of_masks], rows)
    middle = "histogram of mask sizes" if found.single else "share of pixels per class"
    alt = f"Bars of images per split, {middle}, bars of image sizes"
    caption = "What the recipe sees after ingest. A black image has one single value"
    caption += "; an empty one has no foreground." if found.single else "."
    return section("data", "Data", figure(drawn["data_overview.png"], alt, caption), counts, _faults(found))


def _faults(found: Collected) -> str:
    if found.faults.empty:
        return "<p>No file was found faulty.</p>"
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.faults["fault"].value_counts().items())
    shown = found.faults.head(MANY_FAULTS).fillna("")
    rows = shown[["sample_id", "fault", "detail", "path"]].astype(str).values.tolist()
    listed = table(["sample", "fault", "what was found", "file"], rows, texts=4, wide=(2, 3))
    more = f"<p>The first {MANY_FAULTS} are shown.</p>" if len(found.faults) > MANY_FAULTS else ""
    title = f"{len(found.faults)} faulty file{'s' * (len(found.faults) > 1)} left out: {kinds}"
    return details(title, listed + more)


def folds(found: Collected, drawn: dict[str, bytes]) -> str:
    """How alike the folds are."""
    balance = fold_table(found)
    rows = [[value.item() if hasattr(value, "item") else value for value in row] for row in balance.to_numpy(object)]
    recipe = found.recipe.folds
    how = f"stratified by {', '.join(recipe.stratify)}" if recipe.stratify else "split at random"
    how = f"dealt out by {recipe.deal}" if recipe.deal else f"read from {recipe.file}" if recipe.file else how
    caption = (
        f"{recipe.count} folds, {escape(how)}. The orange line is the mean of all folds: bars that leave it are folds "
        "that differ."
    )
    always = int((found.samples["fold"] < 0).sum())
    caption += f" {always:,} more images always train and lie in no fold." if always else ""
    marks = [""] * (len(rows) - 1) + ["strong"]
    return section(
        "folds",
        "Folds",
        figure(
            drawn["fold_balance.png"],
            f"Bars per fold of {', '.join(name for name in balance.columns if name != 'fold')}",
            caption,
        ),
        table(list(balance.columns), rows, digits=3, marks=marks),
    )


def curves(found: Collected, drawn: dict[str, bytes]) -> str:
    """Learning curves and what came of every phase."""
    alt = "Training loss, validation score and learning rate by epoch, a row for each run"
    caption = (
        "A row for each run, its phases one after another between dotted lines, a line for each fold. "
        "Phases may use different losses, so a jump of the loss at a dotted line says nothing."
    )
    rows: list[list[Cell]] = []
    for (stage, run, phase), part in found.history.groupby(["stage", "run", "phase"], sort=False):
        best = part.groupby("fold")["score"].max()
        last = part.sort_values("epoch").groupby("fold").tail(1)
        row = [str(stage), str(run), str(phase), part["fold"].nunique(), int(part["epoch"].max()) + 1]
        rows.append([*row, float(last["loss"].mean()), float(best.mean()), float(best.min()), float(best.max())])
    head = ["stage", "run", "phase", "folds", "epochs", "last loss", "best score", "lowest fold", "highest fold"]
    return section(
        "curves", "Learning curves", figure(drawn["learning_curves.png"], alt, caption), table(head, rows, texts=3)
    )


def scores(found: Collected, drawn: dict[str, bytes]) -> str:
    """Scores by run, fold and mask size."""
    metrics = [metric for metric in METRICS if found.cases[metric].notna().any()]
    means = score_table(found)
    if not found.single:
        metrics = [*metrics, "dataset_iou"]
        means["dataset_iou"] = [dataset_iou(found, row.stage, row.run) for row in means.itertuples()]
    rows = [
        [row["stage"], row["run"], row["images"], *(row[metric] for metric in metrics)]
        for row in means.to_dict("records")
    ]
    marks = ["quiet" if run == ALL_EMPTY else "strong" if run == headline_run(found, stage) else ""
             for stage, run in zip(means["stage"], means["run"], strict=True)]  # fmt: skip
    head = ["stage", "run", "images", *(words(metric) for metric in metrics)]
    caption = (
        "Left: the score of each fold (dots) and over all images (stroke), with the all-empty score (diamond). "
        "Right: the same score for images whose true mask has that size, with the number of images below."
        if found.single
        else "Left: the score of each fold (dots) and over all images (stroke). Right: the IoU of each class over the "
        "pixels of all images, of the submission&rsquo;s blend (bar) and of each stage (dots)."
    )
    meaning = (
        "Masks of runs and ensembles are what is above 0.5, those of the blend the submission&rsquo;s. An image where "
        "truth and prediction are both empty scores 1; where only one is, 0."
        if found.single
        else _several_scores(found)
    )
    if "mean_precision" in metrics:
        meaning += " Mean precision is the share of the IoU thresholds 0.50, 0.55, … 0.95 that the image passes."
    parts = [
        figure(
            drawn["scores.png"],
            f"Scores of every run by fold, and by {'true mask size' if found.single else 'class'}",
            caption,
        ),
        table(head, rows, texts=2, marks=marks),
        f"<p>{meaning}</p>",
        details(f"{words(found.metric)} by fold", _crossed(found, "fold", "fold ")),
        details(f"{words(found.metric)} by true mask size", _crossed(found, "bin", "")) if found.single else "",
        details("All of scores.csv" if found.single else "Rows of scores.csv", _csv(found)),
    ]
    return section("scores", "Scores in detail", *parts)


def _several_scores(found: Collected) -> str:
    """What the scores of several classes mean."""
    dataset = found.recipe.dataset
    evaluated = f" Classes here are those that are evaluated: {escape(', '.join(dataset.evaluated))}."
    return (
        f"{words('truth_iou')} is the mean over images of an image&rsquo;s own score, the mean IoU of the classes that "
        "its truth has: a class that is predicted where there is none costs nothing but what it covers. "
        f"{words('iou')} and {words('dice').lower()} are means over the classes that truth or prediction has. "
        f"{words('dataset_iou')} is the mean over classes of the IoU of all images&rsquo; pixels together."
        f"{evaluated if dataset.evaluated else ''}"
    )


def _crossed(found: Collected, column: str, prefix: str) -> str:
    """Runs by folds or bins; the all-empty score is a row of each stage."""
    long = score_table(found, [column])
    values = list(dict.fromkeys(long[column].sort_values()))
    rows: list[list[Cell]] = []
    marks = []
    for stage, run in dict.fromkeys(zip(long["stage"], long["run"], strict=True)):
        own = long[(long["stage"] == stage) & (long["run"] == run)].set_index(column)[found.metric]
        rows.append([stage, run, *(float(own.get(value, float("nan"))) for value in values)])
        marks.append("quiet" if run == ALL_EMPTY else "")
    return table(["stage", "run", *(f"{prefix}{value}" for value in values)], rows, texts=2, marks=marks)


def _csv(found: Collected) -> str:
    rows = found.scores.astype(object).where(found.scores.notna(), None).values.tolist()
    return table(list(found.scores.columns), rows, texts=len(found.scores.columns) - 1)


def pseudolabels(found: Collected, drawn: dict[str, bytes]) -> str:
    """What was kept for every stage or run that trains on pseudolabels."""
    tests = int((found.samples["split"] == "test").sum())
    rows: list[list[Cell]] = []
    for owner, spec in found.pseudolabel_sets.items():
        kept = found.pseudolabels[found.pseudolabels["owner"] == owner]
        images = kept["sample_id"].nunique()
        share = f"{images / tests:.0%}" if tests else ""
        confidence, lowest = float(kept["confidence"].mean()), float(kept["confidence"].min())
        rows.append([owner, spec.stage, spec.keep, images, share, confidence, lowest])
    leaks = [owner for owner, spec in found.pseudolabel_sets.items() if not spec.cross_fit]
    if not rows:
        return section("pseudolabels", "Pseudolabels", "<p>No stage of this recipe trains on pseudolabels.</p>")
    of_masks = "mask size" if found.single else "classes"
    alt = f"Confidence and {of_masks} of the pseudolabels, and how many each fold may see"
    parts = [figure(drawn["pseudolabels.png"], alt, "Test images whose predicted masks later stages train on.")]
    head = ["for", "made by", "kept", "images", "of the test images", "mean confidence", "lowest"]
    parts.append(table(head, rows, texts=3, digits=3))
    if leaks:
        parts.append(
            f'<div class="note"><p>{escape(", ".join(leaks))}: the pseudolabels come from networks of all folds '
            "together (<code>cross_fit: false</code>, the published way), so a fold&rsquo;s networks learn a little of "
            "its own labels through them, and its out-of-fold scores are mildly flattered.</p></div>"
        )
    return section("pseudolabels", "Pseudolabels", *parts)


def threshold(found: Collected, drawn: dict[str, bytes]) -> str:
    """The threshold, and by how much a search flatters itself."""
    alt = "Histogram of out-of-fold probabilities"
    if found.curve.empty:
        caption = (
            "Several classes take the likeliest one, so there is no threshold. The histogram shows how sure the "
            "blend is."
        )
        return section("threshold", "Threshold", figure(drawn["thresholds.png"], alt, caption))
    alt = "Score by threshold with the chosen value; histogram of out-of-fold probabilities"
    after = " They are not postprocessed yet." if found.recipe.submission.postprocess else ""
    caption = (
        "Left: the score of all out-of-fold predictions together at each threshold. Right: where their probabilities "
        f"lie.{after}"
    )
    return section("threshold", "Threshold", figure(drawn["thresholds.png"], alt, caption), _flattery(found))


def _flattery(found: Collected) -> str:
    summary = found.threshold
    chosen, best, in_sample, nested = (float(summary[name]) for name in ("chosen", "best", "in_sample", "nested"))
    scores = (
        f"{text(in_sample)} on the predictions it is chosen on, but {text(nested)} when "
        "each fold is scored with the threshold that the other folds choose "
        f"({', '.join(f'{value:.3g}' for value in summary['by_fold'].values())}). "
        f"<strong>The search flatters itself by {in_sample - nested:.4f}.</strong>"
    )
    if summary["searched"]:
        return f"<p>The search chose <strong>{chosen:.3g}</strong>. It scores {scores}</p>"
    fixed = found.score_at(chosen)
    return (
        f"<p>The recipe fixes the threshold at <strong>{chosen:.3g}</strong>, which scores {text(fixed)}. "
        f"A search would choose {best:.3g}: {scores} Honestly counted it would change the score by "
        f"{nested - fixed:+.4f}.</p>"
    )


def cost(found: Collected, drawn: dict[str, bytes]) -> str:
    """Time, memory and speed."""
    hours = cost_table(found)
    rows: list[list[Cell]] = [
        [row.stage or "all", row.rule, int(row.jobs), float(row.wall), float(row.cpu), float(row.memory)]
        for row in hours.itertuples()
    ]
    rows.append(["total", "", int(hours["jobs"].sum()), float(hours["wall"].sum()), float(hours["cpu"].sum()),
                 float(hours["memory"].max())])  # fmt: skip
    used = table(["stage", "rule", "jobs", "wall hours", "CPU hours", "peak GiB"], rows, texts=2, digits=3,
                 marks=[""] * (len(rows) - 1) + ["strong"])  # fmt: skip
    rates: list[list[Cell]] = [
        [str(row.stage), str(row.run), int(row.epochs), float(row.seconds) / 3600, float(row.rate), 100 * row.waiting]
        for row in training_rates(found).itertuples()
    ]
    head = ["stage", "run", "epochs of all folds", "hours in epochs", "images / s", "% waiting for data"]
    trained = table(head, rates, texts=2, digits=2)
    caption = (
        "Sums over all jobs of a rule in a stage; memory is that of the largest job. Jobs may have run side by side."
    )
    picture = figure(drawn["cost.png"], "Bars of wall and CPU time and of peak memory per stage and rule", caption)
    return section("cost", "Time and cost", picture, used, "<h3>Training speed</h3>", trained)
