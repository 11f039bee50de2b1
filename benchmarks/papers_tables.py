"""The tables that benchmarks/papers.py writes into docs/results/papers.md, and the figure."""

from __future__ import annotations

from pathlib import Path

import markdown
import pandas as pd
from matplotlib.figure import Figure

# Multiply-adds and parameters of the networks without skips around their sections.
PLAIN = {"lenet300": (266_200, 266_610), "lenet5": (2_293_000, 431_080)}
NAMES = {"lenet300": "LeNet-300-100", "lenet5": "LeNet-5"}
GOALS = {
    "lenet300": (1.7, 85.0),
    "lenet5": (0.9, 90.0),
}  # largest error and smallest share of MACs removed, in percent
VARIED = {
    "seed": "seed",
    "weight_init": "first weights",
    "hidden": "starting width",
    "theta_init": "first theta",
}


def write(table: pd.DataFrame, docs: Path) -> None:
    """Fill the tables of the page, and draw the figure of the robustness."""
    mnist = table[table["part"] == "mnist"].copy()
    for column, position in (("macs", 0), ("params", 1)):
        plain = mnist["network"].map(lambda name, at=position: PLAIN[name][at])
        mnist[f"{column}_gone"] = 100 * (1 - mnist[column] / plain)
    robust = table[table["part"] == "robustness"]
    content = {"mnist": lenets(mnist), "goals": goals(mnist), "robustness": robustness(robust)}
    markdown.insert(docs / "papers.md", content)
    draw(robust, docs / "papers_robustness.png")


def spread(values: pd.Series, digits: int = 2) -> str:
    """The mean of the values, and their range where there are several."""
    mean = f"{values.mean():.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({values.min():.{digits}f}-{values.max():.{digits}f})"


def lenets(mnist: pd.DataFrame) -> str:
    """The MNIST table, with a row for each network, kind of gates and level."""
    rows = []
    for network, gate, level in configurations(mnist):
        runs = of(mnist, network, gate, level)
        dense = gate == "dense"
        row = [f"{NAMES[network]}, {gate}", "" if dense else f"{level:g}", f"{len(runs)}"]
        row += [spread(runs["error"])]
        row += ["0"] * 2 if dense else [spread(runs[f"{c}_gone"], 1) for c in ("macs", "params")]
        first = runs.sort_values("seed").iloc[0]
        row += ["" if dense else str(first["units_left"])]
        sections = int(first["sections"])
        row += [f"{runs['sections_left'].mean():.1f} of {sections}" if sections else ""]
        row += ["" if dense else f"{100 * runs['undecided_at_freeze'].mean():.0f}"]
        rows.append([*row, f"{runs['train_load'].mean():.2f}"])
    heads = ["network, gates", "log gamma", "seeds", "error %", "MACs gone %", "parameters gone %"]
    heads += ["units left (first seed)", "sections left", "undecided at the freeze %"]
    return markdown.table([*heads, "training load"], rows)


def configurations(mnist: pd.DataFrame) -> list[tuple[str, str, float]]:
    order = {name: i for i, name in enumerate(("dense", "units", "both", "layers"))}
    found = {(str(n), str(g), float(v)) for n, g, v in zip(*known(mnist))}
    return sorted(found, key=lambda key: (key[0] != "lenet300", order[key[1]], key[2]))


def known(mnist: pd.DataFrame) -> tuple[pd.Series, pd.Series, pd.Series]:
    return mnist["network"], mnist["gate"], mnist["log_gamma"]


def of(mnist: pd.DataFrame, network: str, gate: str, level: float) -> pd.DataFrame:
    networks, gates, levels = known(mnist)
    return mnist[(networks == network) & (gates == gate) & (levels == level)]


def goals(mnist: pd.DataFrame) -> str:
    """Whether each goal is met, and the most MACs removed at an error that dense seeds have."""
    rows = []
    for network, (error, gone) in GOALS.items():
        runs = mnist[(mnist["network"] == network) & (mnist["gate"] != "dense")]
        dense = mnist[(mnist["network"] == network) & (mnist["gate"] == "dense")]["error"]
        if not len(runs):
            rows.append([NAMES[network], f"{error} % with {gone:.0f} % gone", "not run", "", ""])
            continue
        means = runs.groupby(["gate", "log_gamma"])[["error", "macs_gone"]].mean()
        enough = means[means["macs_gone"] >= gone]
        best = f"{enough['error'].min():.2f} %" if len(enough) else "no setting goes so far"
        met = bool(len(enough)) and enough["error"].min() <= error
        inside = means[means["error"] <= dense.max()]["macs_gone"]  # none where dense is not run
        far = f"{inside.max():.1f} %" if len(inside) else "none" if len(dense) else "not known"
        row = [NAMES[network], f"{error} % with {gone:.0f} % gone", best, "yes" if met else "no"]
        rows.append([*row, f"{spread(dense)} %" if len(dense) else "not run", far])
    heads = ["network", "goal: error at most, MACs gone at least", "least error with so much gone"]
    heads += ["met", "dense: error", "most MACs gone, error not above the worst dense seed's"]
    return markdown.table(heads, rows)


def variations(robust: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """What is varied, its value, and the runs; all else is as in the base."""
    base = {name: robust[name].mode().iloc[0] for name in VARIED if name != "seed"} | {"seed": 0}
    found = []
    for name in VARIED:
        others = [other for other in VARIED if other != name]
        same = robust[(robust[others] == pd.Series(base)[others]).all(axis=1)]
        for (value, level), runs in same.groupby([name, "log_gamma"], sort=False):
            usual = level == robust["log_gamma"].mode().iloc[0]
            found.append((name, f"{value}" + ("" if usual else f", log gamma {level:g}"), runs))
    return found


def robustness(robust: pd.DataFrame) -> str:
    """The table of the robustness, with a row for each variation."""
    if not len(robust):
        return "Not run yet."
    rows = []
    for name, value, runs in variations(robust):
        run = runs.iloc[0]
        row = [VARIED[name], value, f"{run['error']:.2f}", str(run["units_left"])]
        rows.append([*row, f"{run['macs']:,.0f}", f"{100 * run['undecided_at_freeze']:.0f}"])
    heads = ["varied", "value", "error %", "units left", "MACs left", "undecided at the freeze %"]
    return markdown.table(heads, rows)


def draw(robust: pd.DataFrame, path: Path) -> None:
    """Draw the error and the MACs of the networks found, with a point for each run."""
    if not len(robust):
        return
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    found = variations(robust)
    for axis, column, title in zip(axes, ("error", "macs"), ("test error, %", "MACs left")):
        for position, name in enumerate(VARIED):
            values = [float(runs.iloc[0][column]) for key, _, runs in found if key == name]
            axis.plot([position] * len(values), values, "o", alpha=0.7)
        axis.set_xticks(range(len(VARIED)), list(VARIED.values()), fontsize=8)
        axis.set_ylim(bottom=0)
        axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    results = Path(__file__).parents[1] / "docs" / "results"
    write(pd.read_csv(results / "papers.csv"), results)
