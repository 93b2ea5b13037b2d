"""docs/reliability.md names tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reliability.md").read_text()


def names(path: Path) -> set[str]:
    """The functions and names that a file has at its top."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return found


def test_every_promise_names_a_test_that_exists() -> None:
    """Each row of the promises has one at least, and each that is named is there."""
    promises = PAGE.partition("## Promised")[2].partition("\n## ")[0]
    rows = [row for row in promises.splitlines() if row.startswith("| **")]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/\S+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            assert name in names(ROOT / path), (path, name)


def test_its_commands_are_those_of_ci_and_of_the_readme() -> None:
    """The test command is the README's with a file; the long one is in .ci/run; the README leads here."""
    readme = (ROOT / "README.md").read_text()
    assert ".venv/bin/pytest\n" in readme
    assert ".venv/bin/pytest -m long" in PAGE
    assert ".venv/bin/pytest -m long" in (ROOT / ".ci/run").read_text()
    assert "(docs/reliability.md)" in readme
    for path in re.findall(r"\.venv/bin/pytest (tests/\S+)", PAGE):
        assert (ROOT / path).is_file()
