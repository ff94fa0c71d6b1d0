"""Writes docs/accuracy.md from the results of studies: every number in it comes from a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradloom_golden.config import PRESETS
from gradloom_host.files import write_file
from gradloom_model.energy import load

from .config import VERSION
from .cycles import SlotModel, bound, gain, layers_of
from .data import DATA_SHAPES
from .machine_cost import MachineModel
from .networks import NETWORKS
from .summary import BASELINE, Difference, Row, by_network, difference, is_complete, summarise

__all__ = ["page", "write_page"]

MACHINE, ENERGIES = PRESETS["base"], "aladdin65"
"""What gains are computed for, and the table of energies."""

SKIP_GOAL = 0.76
"""Share of gradients that the literature's rule skipped on CIFAR-10."""

CHANGE_GOAL = 0.003

LESS, MORE = 0.02, 0.05
"""By how much of all gradients the budget of a rival may be below and above that compared with it.

More, since a rival that loses with more work loses all the more.
"""

CHANGES = {2: "[decision 12](decisions/0012-two-drifts.md)"}
"""What a version of the runs differs by from the one before."""

HEAD = f"""# Does it still learn?

What skipping gradients and cutting activations cost in accuracy, in the machine's own arithmetic.
`gradloom study page` wrote this page from the results of runs; [study.md](study.md) says what is
emulated, what the policies are, and how each figure is computed.

Gains are of the whole training run over sequential 8-bit training without skip, from the recorded
skip rates and bits, by the cost model ([model.md](model.md)): the machine of {MACHINE.rows} x
{MACHINE.columns}, buffers in place, no DRAM, energies of {ENERGIES}. The baseline has the same
forward pass, then two backward passes whose loads show; what interleaving, hidden loads and the
fused update give without any skipping is the gain of `{BASELINE}`. Slots leave out loads, drains,
skew and the update; their bound, `3 / (1 + (1 - s)(1 + 1/q))`, takes all layers for alike.

After ± stands, of an accuracy, the standard deviation over the seeds; of a difference, the standard
error of its mean over pairs of the same seed.
"""

TABLE = """
| policy | seeds | epochs | test accuracy, % | to {base}, points | gradients not computed, % | \
forward passes not done, % | mean bits | cycles, gain | accesses, gain | energy, gain | \
slots, gain | slots, bound |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def page(studies: Sequence[tuple[dict[str, Any], str]]) -> str:
    """Return the page, Markdown.

    Parameters
    ----------
    studies : sequence of (dict, str)
        Of `gradloom_study.results.load_results`, and what somebody wrote about them.
    """
    return HEAD + "".join(_section(content, comment) for content, comment in studies)


def write_page(path: Path, studies: Sequence[tuple[dict[str, Any], str]]) -> None:
    """Write the page."""
    write_file(path, page(studies))


def _section(content: dict[str, Any], comment: str) -> str:
    settings = content["settings"]
    done = [run for run in content["runs"] if is_complete(run)]
    open_runs = sorted(run["cell"] for run in content["runs"] if not is_complete(run))
    lines = [f"\n## {content['study']}\n\n{_setting(settings, content['runs'])}\n"]
    version = min(run.get("version", 1) for run in content["runs"])
    if version < VERSION:
        since = ", ".join(CHANGES[later] for later in range(version + 1, VERSION + 1))
        lines.append(f"\nThese runs are of an earlier version of the arithmetic, {version}; the "
                     f"present one, {VERSION}, would give others. In between: {since}.\n")
    if comment:
        lines.append(f"\n{comment.strip()}\n")
    machine = MachineModel(MACHINE, settings["batch"], load(ENERGIES))
    for network, some in by_network(summarise(content)).items():
        lines.append(f"\n### {network}\n" + TABLE.format(base=BASELINE))
        lines += [_line(row, content, done, machine) for row in some]
        lines += [f"\n{text}\n" for text in _verdicts(some, settings["policies"])]
    lines += [f"\n{text}\n" for text in _angles(done)]
    if open_runs:
        lines.append(f"\nNot finished, and not in the tables: {', '.join(open_runs)}.\n")
    lines += [f"\n{text}\n" for text in _missing(settings, content["runs"])]
    return "".join(lines)


def _missing(settings: dict[str, Any], runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence on what the settings have and no run was begun of, if there is such."""
    begun = {(run["network"], run["policy"], run["seed"]) for run in runs}
    found = []
    for network in settings["networks"]:
        for policy in settings["policies"]:
            seeds = [str(seed) for seed in settings["seeds"]
                     if (network, policy["name"], seed) not in begun]
            if seeds:
                found.append(f"{network} {policy['name']} with seed {', '.join(seeds)}")
    return [f"Not run: {'; '.join(found)}."] if found else []


def _setting(settings: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    machines = {tuple(sorted((key, str(value)) for key, value in run["machine"].items()))
                for run in runs}
    used = "; ".join(sorted(
        f"{known['processor']}, {known['device']}, threads: "
        f"{known['threads']}, Python "
        f"{known['python']}, PyTorch {known['torch']}, NumPy {known['numpy']}"
        + (f", GradLoom {known['gradloom']}" if "gradloom" in known else "")
        for known in (dict(machine) for machine in machines)))
    count = settings["train_samples"] or "all"
    halved = ", ".join(f"{share:g}" for share in settings["halvings"])
    changed = [f"moved by up to {settings['shift']} pixels"] * bool(settings["shift"])
    changed += ["half of them mirrored"] * settings["flip"]
    images = ", ".join(changed) or "as they are"
    return (f"Data {settings['data']}, {count} training images, {images}, "
            f"{settings['test_samples'] or 'all'} test images; "
            f"{settings['epochs']} epochs, batches of {settings['batch']}, learning rate "
            f"2^-{settings['rate']} halved after {halved} of the run, momentum "
            f"1 - 2^-{settings['momentum']}. Seeds {', '.join(map(str, settings['seeds']))}. "
            f"On {used}.")


def _line(row: Row, content: dict[str, Any], done: Sequence[dict[str, Any]],
          machine: MachineModel) -> str:
    spread = f" ± {100 * row.spread:.2f}" if len(row.accuracies) > 1 else ""
    change = "" if row.change is None else _points(row.change)
    gains = " | ".join(_gains(row, content, done, machine))
    bits = "" if row.bits is None else f"{row.bits:.1f}"
    return (f"| {row.policy} | {len(row.accuracies)} | {row.epochs:g} "
            f"| {100 * row.accuracy:.2f}{spread} | {change} "
            f"| {100 * row.skipped:.1f} | {100 * row.forward:.1f} | {bits} | {gains} |\n")


def _points(change: Difference) -> str:
    error = f" ± {100 * change.error:.2f}" if change.error else ""
    return f"{100 * change.mean:+.2f}{error}"


def _gains(row: Row, content: dict[str, Any], done, machine: MachineModel) -> list[str]:
    """Return the gains in cycles, accesses, energy and slots, and the bound at the recorded rates.

    Float runs have none: the machine has no such arithmetic.
    """
    if row.bits is None:
        return [""] * 5
    settings = content["settings"]
    options = dict(settings["networks"][row.network])
    shape, classes = DATA_SHAPES[settings["data"]]
    layers = layers_of(NETWORKS[options.pop("kind")](shape, classes, **options))
    batch, epochs = settings["batch"], settings["epochs"]
    ratios = []
    for run in done:
        if (run["network"], run["policy"]) == (row.network, row.policy):
            own, base = gain(machine, layers, run, batch, epochs)
            own_slots, base_slots = gain(SlotModel(), layers, run, batch, epochs)
            ratios.append((base.cycles / own.cycles, base.accesses / own.accesses,
                           base.energy / own.energy, base_slots.cycles / own_slots.cycles))
    limit = f"{bound(row.skipped, 8 / row.bits):.2f}x" if not row.forward else ""
    return [f"{mean:.2f}x" for mean in np.mean(ratios, axis=0)] + [limit]


def _verdicts(rows: Sequence[Row], policies: Sequence[dict[str, Any]]) -> list[str]:
    """Return sentences that compare policies which had about the same backward budget."""
    plain = {policy["name"] for policy in policies if _is_plain(policy)}
    named = {row.policy: row for row in rows}
    found = []
    if BASELINE in named and "float" in named:
        apart = difference(named[BASELINE].accuracies, named["float"].accuracies)
        if apart:
            found.append(f"Integer training differs from float32 by {_points(apart)} points.")
    reached = [row.policy for row in rows if row.skipped >= SKIP_GOAL
               and row.change is not None and row.change.mean >= -CHANGE_GOAL]
    found.append(
        f"At least {SKIP_GOAL:.0%} of the gradients not computed at no more than "
        f"{100 * CHANGE_GOAL:.1f} points below {BASELINE}: {', '.join(reached) or 'none'}.")
    for row in rows:
        if row.policy in plain or row.policy == BASELINE:
            continue
        rivals = {other.policy: difference(row.accuracies, other.accuracies) for other in rows
                  if other.policy in plain and -LESS <= row.skipped - other.skipped <= MORE}
        told = ", ".join(f"{_points(change)} to {policy}" for policy, change in rivals.items()
                         if change)
        if told:
            found.append(f"At its backward budget or little more, {row.policy}: {told} points.")
    if rows and any(len(row.accuracies) < 3 for row in rows):
        found.append("With fewer than three seeds a difference of some tenths says nothing.")
    return found


def _is_plain(policy: dict[str, Any]) -> bool:
    """Return whether a policy saves backward work without a look at the samples."""
    skip = policy["skip"]
    return bool(policy["like"] or skip.get("kind") == "random"
                or (skip.get("kind") == "importance" and skip["cap"] == 0))


def _angles(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the recorded angles say: bounds that were held, and the predictor's error."""
    chosen = later = over = later_over = 0
    errors: dict[int, list[float]] = {4: [], 2: []}
    for run in runs:
        for record in run["records"]:
            for angle in record["angles"].values():
                if "bound" in angle and angle["bits"] < 8 and angle["bound"] < 90:
                    chosen += 1
                    over += angle["chosen"] > angle["bound"]
                    if "later" in angle:
                        later += 1
                        later_over += angle["later"] > angle["bound"]
                for width, some in errors.items():
                    if f"measured{width}" in angle:
                        some.append(angle[f"predicted{width}"] - angle[f"measured{width}"])
    found = []
    if chosen:
        found.append(
            f"Angles: of {chosen} layers and epochs in which fewer than 8 bits were chosen under a "
            f"bound, {over} had an angle above it in the batch that was measured, and of the "
            f"{later} measured again half an epoch later, {later_over}.")
    for width, some in errors.items():
        if some:
            found.append(
                f"The predictor (tan^2 = noise to signal times gradient diversity) at {width} "
                f"bits: mean error {np.mean(some):+.2f} degrees, mean absolute "
                f"{np.mean(np.abs(some)):.2f}, largest {np.max(np.abs(some)):.2f}, of {len(some)} "
                "measurements.")
    return found
