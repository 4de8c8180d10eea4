"""What the README promises: its Python runs, and it names every command and column that there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax.tables.schemas import TABLES

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run_on_what_init_writes_one_after_the_other(tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    assert run(["init", str(tmp_path / "start")]) == Exit.SUCCESS
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "margins.parquet").is_file()
    assert (tmp_path / "tomorrow" / "margins.parquet").is_file()


def test_the_table_schemas_of_the_readme_are_those_of_the_door() -> None:
    for name in ("instruments", "positions", "balances", "quotes", "underlyings", "history"):
        (row,) = re.findall(rf"^\| `{name}` \|(.*)\|$", README, flags=re.MULTILINE)
        told = {word.rstrip("?") for word in re.findall(r"`([a-z_]+\??)`", row)}
        required = {column.name for column in TABLES[name].columns if column.required}
        assert required <= told <= set(TABLES[name].names)
