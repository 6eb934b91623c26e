"""The oldest versions that pyproject.toml allows, as pip constraints: what `make test-floor` installs.

python scripts/write_floors.py > floors.txt
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

FLOOR = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,-]+\])?\s*>=\s*(?P<version>[\w.]+)")


def floors() -> list[str]:
    """`name==version` of every requirement that has a lower bound."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = [match for requirement in wanted if (match := FLOOR.match(requirement))]
    return sorted({f"{match['name']}=={match['version']}" for match in found})


if __name__ == "__main__":
    print("\n".join(floors()))
