"""The published page of the papers' numbers is what its command writes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSIONS = re.compile(r"Python\s+[\d.]+,\s+NumPy\s+[\d.]+")


def words(text):
    """Return the words of a page without the versions of the tools, which also move line ends."""
    return VERSIONS.sub("", text).split()


@pytest.mark.slow
def test_the_page_is_what_the_command_writes(tmp_path):
    page = tmp_path / "page.md"
    subprocess.run([sys.executable, "bench/reproduce.py", "--output", str(page)], cwd=ROOT,
                   check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert words(page.read_text()) == words((ROOT / "docs" / "reproduction.md").read_text())


def test_the_page_has_every_number_of_both_abstracts():
    text = (ROOT / "docs" / "reproduction.md").read_text()
    for claim in ("1.4 to 2.2 times", "1.9 times", "up to 25 %", "up to 16 %", "75.83 %", "1.69"):
        assert claim in text
    published = next(line for line in text.splitlines() if line.startswith("| published"))
    assert [cell.strip() for cell in published.strip("| ").split("|")[1:]] == [
        "4.0 %", "17.0 %", "12.0 %", "27.0 %", "26.0 %", "18.0 %"]
