"""Looks whether a CycloneDX list has all crates that `cargo tree` names on standard input: components.py FILE"""

import json
import sys

with open(sys.argv[1]) as file:
    document = json.load(file)
listed = {(component["name"], component["version"]) for component in document["components"]}
program = document["metadata"]["component"]
listed.add((program["name"], program["version"]))
# `name v1.2.3 (/path) (*)`
linked = {(words[0], words[1].removeprefix("v")) for words in map(str.split, sys.stdin) if words}
if not linked:
    sys.exit("cargo tree names no crate")
missing = sorted(f"{name} {version}" for name, version in linked - listed)
if missing:
    sys.exit("the list of components lacks " + ", ".join(missing))
print(f"all {len(linked)} crates that are linked are among the {len(listed)} components")
