"""Looks whether a list of components has all crates that `cargo tree` names on standard input.

components.py FILE              a CycloneDX list
components.py --program FILE    the list that cargo-auditable puts into a program, its section .dep-v0
"""

import json
import sys
import zlib


def of_cyclonedx(path):
    with open(path) as file:
        document = json.load(file)
    return [*document["components"], document["metadata"]["component"]]


def of_program(path):
    with open(path, "rb") as file:
        return json.loads(zlib.decompress(file.read()))["packages"]


if len(sys.argv) < 2:
    sys.exit(__doc__)
components = of_program(sys.argv[2]) if sys.argv[1] == "--program" else of_cyclonedx(sys.argv[1])
listed = {(component["name"], component["version"]) for component in components}
# `name v1.2.3 (/path) (*)`
linked = {(words[0], words[1].removeprefix("v")) for words in map(str.split, sys.stdin) if words}
if not linked:
    sys.exit("cargo tree names no crate")
missing = sorted(f"{name} {version}" for name, version in linked - listed)
if missing:
    sys.exit(f"{sys.argv[-1]} lacks " + ", ".join(missing))
print(f"all {len(linked)} crates that are linked are among the {len(listed)} components")
