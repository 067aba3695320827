"""Packs an image for `docker load` or `podman load`, without Docker: archive.py ROOT NAME FILE.tar.gz|FILE.tar

ROOT is what deploy/image/root made. How it is started is what the last stage of deploy/Dockerfile says. The same root gives
the same bytes: names are sorted, root owns all but the user's home, and times are SOURCE_DATE_EPOCH.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import platform
import re
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path

EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])
SECOND = 1_000_000_000
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def instructions(dockerfile):
    """Name and value of each instruction of the last stage."""
    text = re.sub(r"\\\n", " ", dockerfile.read_text())
    stage = text.rsplit("\nFROM scratch\n", 1)[1]
    return [tuple(line.split(" ", 1)) for line in stage.splitlines() if line and not line.startswith("#")]


def health_check(value):
    """A HEALTHCHECK, with its times in nanoseconds."""
    options, command = value.split(" CMD ")
    check = {"Test": ["CMD", *json.loads(command)]}
    for name, seconds in re.findall(r"--([a-z-]+)=(\d+)s", options):
        check[{"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod"}[name]] = int(seconds) * SECOND
    return check


def started(dockerfile):
    """How a container is started."""
    config = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    for name, value in instructions(dockerfile):
        if name == "ENV":
            config["Env"].append(value)
        elif name == "EXPOSE":
            config["ExposedPorts"] = {f"{value}/tcp": {}}
        elif name == "HEALTHCHECK":
            config["Healthcheck"] = health_check(value)
        elif name in ("ENTRYPOINT", "CMD"):
            config[name.capitalize()] = json.loads(value)
        elif name in ("USER", "WORKDIR"):
            config[{"USER": "User", "WORKDIR": "WorkingDir"}[name]] = value
        elif (name, value) != ("COPY", "--from=build /image /"):
            sys.exit(f"{dockerfile}: {name} {value}: it is not known here")
    return config


def add(archive, name, data):
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(data), EPOCH
    archive.addfile(entry, io.BytesIO(data))


def layer(root):
    """All of the root as a tar archive."""
    # name:x:user:group::home:program
    _, _, user, group, _, home, _ = (root / "etc/passwd").read_text().split(":")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            entry = archive.gettarinfo(path, str(path.relative_to(root)))
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = EPOCH, 0, 0, "", ""
            if f"/{entry.name}" == home:
                entry.uid, entry.gid = int(user), int(group)
            if entry.isfile():
                with path.open("rb") as file:
                    archive.addfile(entry, file)
            else:
                archive.addfile(entry)
    return buffer.getvalue()


def pack(root, name, file):
    data = layer(root)
    layer_id = hashlib.sha256(data).hexdigest()
    created = datetime.fromtimestamp(EPOCH, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = json.dumps({
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "created": created,
        "config": started(Path(__file__).parent.parent / "Dockerfile"),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_id}"]},
        "history": [{"created": created, "created_by": "deploy/image/root"}],
    }).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{layer_id}/layer.tar"]}]
    with open(file, "wb") as raw:
        # Of the same file, whatever it is called and whenever.
        zipped = gzip.GzipFile("", "wb", 6, raw, 0) if file.endswith(".gz") else contextlib.nullcontext(raw)
        with zipped as out, tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            add(archive, "manifest.json", json.dumps(manifest).encode())
            add(archive, config_name, config)
            add(archive, f"{layer_id}/layer.tar", data)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    pack(Path(sys.argv[1]), *sys.argv[2:])
