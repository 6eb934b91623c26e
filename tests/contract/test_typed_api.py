"""Type checkers see the public API: mypy accepts a user's script, and finds its mistakes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
from pathlib import Path
from typing import assert_type

import vistune

data = vistune.generate_data("photos", "data", language=("en", "ko"), seed=1)
assert_type(data, vistune.GeneratedData)
assert_type(vistune.check("data/samples.json", recipe="quickstart"), vistune.CheckReport)
vistune.check([{"id": "1", "image": "a.jpg", "conversations": []}])
run = vistune.train("quickstart", "run", data=data.path, overrides={"stages.tune.steps": 100})
assert_type(run, vistune.Run)
assert_type(run.checkpoints, list[Path])
assert_type(vistune.evaluate(run, task="pope", data="pope"), vistune.EvaluationResult)
assert_type(vistune.evaluate("run", tasks=("pope",), data={"pope": "pope"}), list[vistune.EvaluationResult])
server = vistune.Endpoint("qwen3-vl", base_url="http://localhost:8000/v1")
assert_type(vistune.evaluate(server, task="pope", data="pope", out="evals"), vistune.EvaluationResult)
assert_type(vistune.verify("export", "transformers"), vistune.VerifyResult)
assert_type(vistune.push(run, "my-name/my-model", dry_run=True), vistune.PushResult)
assistant = run.load()
assert_type(assistant.ask("a.jpg", "What?"), str)
answer = assistant.chat([{"role": "user", "content": "Hello"}])
assert_type(answer, vistune.Answer)
assert_type(answer.text, str)
"""
WRONG = """
vistune.train("quickstart")
vistune.generate_data("photos", "data", langauge="en")
vistune.evaluate("run", data="pope")
run.metric
"""


def test_mypy_accepts_a_users_script_and_finds_its_mistakes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + WRONG, encoding="utf-8")
    assert (ROOT / "src" / "vistune" / "py.typed").is_file()
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(script)],
        cwd=ROOT,  # the cache of `make lint` is used
        env={**os.environ, "MYPYPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = {int(line) for line in re.findall(r"script\.py:(\d+): error", done.stdout)}
    lines = (SCRIPT + WRONG).splitlines()
    mistakes = {number for number, line in enumerate(lines, 1) if line and line in WRONG.splitlines()}
    assert found == mistakes, done.stdout
