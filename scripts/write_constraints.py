"""Write the installed version of every package that vistune needs, with all extras, as pip constraints.

    pip install -e '.[dev,docs,spacy,cuda]' pre-commit bandit pip-audit
    python scripts/write_constraints.py > constraints.txt

Run it in an environment in which the tests pass. A constraint installs nothing; it only chooses the version of a
package that is needed anyway. Local versions (`2.13.0+cpu`) are cut to the public version, which every build matches.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

TOOLS = ("pre-commit", "bandit", "pip-audit")  # installed by targets of the Makefile, not by an extra
SKIPPED = ("vistune", "pip")
HEADER = """\
# Tested versions, written by scripts/write_constraints.py; use them with `pip install -c constraints.txt`.
# `make install` installs torch first, in the version of this file, so that no other build of it is installed later.
"""


def requirements_of(name: str, extras: set[str]) -> list[Requirement]:
    """The requirements of an installed package that apply on this machine."""
    found = [Requirement(text) for text in distribution(name).requires or []]
    environments = [{"extra": extra} for extra in sorted(extras) or [""]]
    return [one for one in found if one.marker is None or any(map(one.marker.evaluate, environments))]


def installed_versions() -> dict[str, str]:
    """Map each needed package to its installed version. Raises PackageNotFoundError for one that is missing."""
    versions: dict[str, str] = {}
    extras_seen: dict[str, set[str]] = {}
    own_extras = set(distribution("vistune").metadata.get_all("Provides-Extra") or [])
    waiting = [("vistune", own_extras), *((tool, set[str]()) for tool in TOOLS)]
    while waiting:
        name, extras = waiting.pop()
        if name in extras_seen and extras <= extras_seen[name]:
            continue
        extras_seen[name] = extras_seen.get(name, set()) | extras
        versions[name] = Version(distribution(name).version).public
        waiting += [(canonicalize_name(one.name), one.extras) for one in requirements_of(name, extras_seen[name])]
    return {name: version for name, version in sorted(versions.items()) if name not in SKIPPED}


def main() -> int:
    try:
        versions = installed_versions()
    except PackageNotFoundError as error:
        print(f"{error.name} is not installed; the docstring of this script says what to install", file=sys.stderr)
        return 1
    print(HEADER + "\n".join(f"{name}=={version}" for name, version in versions.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
