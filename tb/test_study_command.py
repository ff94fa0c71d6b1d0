"""``gradloom study`` runs a grid, draws it, and writes the page, all from the same results."""

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from gradloom_host.cli import main  # noqa: E402
from gradloom_study.config import VERSION  # noqa: E402
from gradloom_study.data import DATA_SHAPES  # noqa: E402
from gradloom_study.page import page  # noqa: E402
from gradloom_study.results import load_results  # noqa: E402
from gradloom_study.summary import Difference, summarise  # noqa: E402

ROOT = Path(__file__).parents[1]
CONFIG = """
data = "digits"
seeds = [1, 2]
epochs = 3
batch = 32
rate = 3
angles = true
train_samples = 320
test_samples = 100
[[network]]
name = "mlp"
kind = "mlp"
norm = "none"
hidden = [16]
[[policy]]
name = "int8"
[[policy]]
name = "float"
arithmetic = "float"
[[policy]]
name = "budget"
skip = { kind = "budget", error = 0.3 }
precision = { kind = "early-low" }
[[policy]]
name = "random"
skip = { kind = "random", follows = "budget" }
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.toml").write_text(CONFIG)
    assert main(["study", str(folder / "tiny.toml"), "-o", str(folder / "out")]) == 0
    return folder / "out"


def test_a_study_draws_its_trade_off(results):
    for name in ("tradeoff", "epochs", "bits"):
        assert (results / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_plot_draws_again(results, tmp_path, capsys):
    assert main(["study", "plot", str(results), "-o", str(tmp_path)]) == 0
    assert (tmp_path / "tradeoff.png").is_file()
    assert "budget" in capsys.readouterr().out


def test_rows_add_up_the_records(results):
    content = load_results(results)
    rows = {row.policy: row for row in summarise(content)}
    assert rows["int8"].skipped == 0
    assert rows["int8"].change == Difference(mean=0, error=0)
    budget = [run for run in content["runs"] if run["policy"] == "budget"]
    kept = sum(record["kept"] for run in budget for record in run["records"])
    assert rows["budget"].skipped == pytest.approx(1 - kept / (2 * 3 * 320))
    assert rows["budget"].accuracy == pytest.approx(
        sum(run["records"][-1]["test_accuracy"] for run in budget) / 2)
    assert abs(rows["random"].skipped - rows["budget"].skipped) < 0.05
    assert rows["float"].bits is None
    budget[1] |= {"epochs": 2, "records": budget[1]["records"][:2]}
    assert next(row.epochs for row in summarise(content) if row.policy == "budget") == 2.5


def test_a_difference_is_paired_by_seed_and_has_its_standard_error(results):
    content = load_results(results)
    last = {(run["policy"], run["seed"]): run["records"][-1] for run in content["runs"]}
    for (policy, seed), told in {("int8", 1): 0.5, ("int8", 2): 0.75, ("budget", 1): 0.5625,
                                 ("budget", 2): 0.75}.items():
        last[policy, seed]["test_accuracy"] = told
    budget = next(row for row in summarise(content) if row.policy == "budget")
    assert budget.change
    assert (budget.change.mean, budget.change.error) == (0.03125, pytest.approx(0.03125))
    assert "| budget | 2 | 3 | 65.62 ± 13.26 | +3.12 ± 3.12 |" in page([(content, "")])
    # Rivals, too, are compared by seed: of random only the first is there.
    content["runs"].remove(next(
        run for run in content["runs"] if (run["policy"], run["seed"]) == ("random", 2)))
    for run in content["runs"]:
        if (run["policy"], run["seed"]) == ("random", 1):
            run["records"] = [record | {"test_accuracy": 0.5} for record in next(
                other["records"] for other in content["runs"]
                if (other["policy"], other["seed"]) == ("budget", 1))]
    told = "At its backward budget or little more, budget: +6.25 to random points."
    assert told in page([(content, "")])
    # Random skipping may also be importance without a cap, and do a little more work, hardly less.
    skip = content["settings"]["policies"][3]["skip"]
    skip |= {"kind": "importance", "cap": 0}
    for cap, more, is_rival in (
        (0, 0, True), (0, 13, True), (0, 20, False), (0, -4, True), (0, -10, False), (1, 0, False),
    ):
        skip["cap"] = cap
        for run in content["runs"]:
            for record in run["records"] if run["policy"] in ("budget", "random") else ():
                record["kept"] = 160 + more * (run["policy"] == "random")
        assert (told in page([(content, "")])) == is_rival


def test_the_page_has_every_row_and_says_what_it_is_not(results, tmp_path):
    target = tmp_path / "accuracy.md"
    assert main(["study", "page", str(results), "-o", str(target)]) == 0
    text = target.read_text()
    for row in summarise(load_results(results)):
        assert f"| {row.policy} | 2 | 3 | {100 * row.accuracy:.2f} ± " in text
    for words in ("Data digits, 320 training images", "Seeds 1, 2", "PyTorch", ", GradLoom ",
                  "with fewer than",
                  "At its backward budget or little more, budget:", "points.", "The predictor"):
        assert words.lower() in text.lower(), words
    assert str(tmp_path) not in text


def test_the_page_says_which_runs_an_earlier_version_made(results):
    content = load_results(results)
    assert "earlier version" not in page([(content, "")])
    for earlier in ({"version": 1}, {}):
        run = content["runs"][1]
        del run["version"]
        run |= earlier
        assert ("an earlier version of the arithmetic, 1; the present one, "
                f"{VERSION}, would give others. In between: [decision 12](decisions/0012"
                ) in page([(content, "")])
        run["version"] = VERSION


def test_the_page_has_what_was_written_beside_the_results(results, tmp_path):
    copy = tmp_path / "some.json"
    copy.write_bytes((results / "results.json").read_bytes())
    (tmp_path / "some.md").write_text("Why so: because.\n")
    target = tmp_path / "accuracy.md"
    assert main(["study", "page", str(copy), str(results), "-o", str(target)]) == 0
    assert target.read_text().count("\nWhy so: because.\n\n### ") == 1


@pytest.mark.parametrize("name", ["some.json", "some.md"])
def test_a_page_is_not_written_over_what_it_is_made_from(results, tmp_path, name, capsys):
    copy = tmp_path / "some.json"
    copy.write_bytes((results / "results.json").read_bytes())
    assert main(["study", "page", str(copy), "-o", str(tmp_path / name)]) == 2
    assert "is what the page is made from: choose another file with -o" in capsys.readouterr().err
    assert copy.read_bytes() == (results / "results.json").read_bytes()


def test_runs_that_are_not_finished_stay_out_of_the_tables(results):
    content = load_results(results)
    content["runs"][0]["epochs"] = 9
    text = page([(content, "")])
    assert "Not finished, and not in the tables: mlp-int8-1." in text
    assert [list(row.accuracies) for row in summarise(content) if row.policy == "int8"] == [[2]]


def test_what_was_not_run_is_named(results):
    content = load_results(results)
    content["runs"] = [run for run in content["runs"]
                       if run["policy"] != "random" and run["cell"] != "mlp-float-2"]
    assert "\nNot run: mlp float with seed 2; mlp random with seed 1, 2.\n" in page([(content, "")])
    assert "Not run" not in page([(load_results(results), "")])


def test_the_page_of_our_results_is_what_the_command_writes(tmp_path):
    target = tmp_path / "accuracy.md"
    assert main(["study", "page", *map(str, sorted((ROOT / "results").glob("*.json"))),
                 "-o", str(target)]) == 0
    assert (ROOT / "docs" / "accuracy.md").read_text() == target.read_text(), (
        "run 'gradloom study page results/*.json'")


def test_shapes_of_pages_are_those_of_data():
    assert set(DATA_SHAPES) == {"digits", "fashion-mnist", "cifar10"}


@pytest.mark.parametrize(("words", "message"), [
    (["plot"], "study plot takes the results of a study, a folder or its results.json"),
    (["plot", "a", "b"], "study plot takes the results of a study"),
    (["page"], "study page takes the results of a study"),
    (["plot", "a", "--threads", "1", "--only", "int8"],
     "study plot takes no --threads, --only: runs do"),
    (["page", "a", "--data", "b"], "study page takes no --data: runs do"),
    (["a.toml", "--scheduler", "tcp://a:1", "--processes", "2"],
     "--processes is not for --scheduler: the threads of the cluster say how many runs go at once"),
    (["a.toml", "b.toml"], "study takes one CONFIG.toml, or plot RESULTS, not"),
    (["nowhere.toml"], "No such file or directory: 'nowhere.toml'"),
    (["plot", "nowhere"], "There are no results nowhere: run 'gradloom study CONFIG.toml -o DIR'"),
])
def test_bad_usage_is_one_line(words, message, capsys):
    assert main(["study", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_without_torch_the_extra_is_named():
    code = ("import sys; sys.modules['torch'] = None; sys.path[:] = {path}\n"
            "from gradloom_host.cli import main; sys.exit(main(['study', 'x.toml']))")
    done = subprocess.run([sys.executable, "-c", code.format(path=sys.path)], check=False,
                          capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'gradloom[study]'" in done.stderr
