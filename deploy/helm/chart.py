"""Charts without a cluster, by Helm itself as a library.

chart.py lint CHART                   fails on what `helm lint --strict` finds
chart.py render CHART [RELEASE]       prints the manifests, a JSON object by template; values, as JSON, from standard input
chart.py package CHART DIR            writes the archive, and prints its path
"""

import json
import sys

from helm_python import chart


def lint(path):
    report = chart.lint(path, strict=True)
    for message in report["messages"]:
        print(message, file=sys.stderr)
    sys.exit(1 if report["errors"] or any(message["severity"] > 1 for message in report["messages"]) else 0)


def render(path, release="volume-reaper"):
    values = json.loads(sys.stdin.read() or "{}")
    with chart.Chart.load(path) as loaded:
        loaded.validate_schema(values)
        json.dump(loaded.render(values=values, name=release, namespace="default"), sys.stdout)


def package(path, directory):
    print(chart.package(path, destination=directory))


if __name__ == "__main__":
    command = {"lint": lint, "render": render, "package": package}.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if command is None:
        sys.exit(__doc__)
    command(*sys.argv[2:])
