#!/usr/bin/env python3
"""Writes what is in wq-run: its crates as a bill of materials in CycloneDX, and the texts of their licences. Both come from the lock
file and from the crates' sources on this machine: no server is asked, and the same lock file gives the same bytes.

    scripts/materials.py MATERIALS.cdx.json [LICENSES.md]

TARGET=TRIPLE takes the crates of a program for another processor.
"""

import collections
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = re.compile(r"(?i)^(licen[cs]e|copying|notice|unlicense|copyright)([-._].*)?$")
# C that is compiled in, with a licence that is not at the crate's top. Of zstd's two, deny.toml accepts this one.
INSIDE = {"zstd-sys": ["zstd/LICENSE"]}
# A crate's package may lack the text, and its siblings from the same repository have it.
HEADINGS = {"Apache-2.0": "Apache License", "MIT": "Permission is hereby granted, free of charge", "ISC": "Permission to use, copy, modify, and"}


def cargo(*words):
    done = subprocess.run(["cargo", *words, "--locked", "--offline"], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout


def crates():
    """The crates that a build with the default features has, without those of build scripts and tests."""
    about = subprocess.check_output(["rustc", "-vV"], text=True, cwd=ROOT)
    target = os.environ.get("TARGET") or re.search(r"^host: (.*)$", about, re.MULTILINE)[1]
    tree = cargo("tree", "--package", "wq-run", "--edges", "normal", "--target", target, "--prefix", "none", "--format", "{p}")
    wanted = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
    found = [package for package in packages if (package["name"], "v" + package["version"]) in wanted]
    if len(found) != len(wanted):
        sys.exit(f"cargo tree names {len(wanted)} crates, and cargo metadata {len(found)} of them")
    return sorted(found, key=lambda package: (package["name"], package["version"]))


def locked():
    """Checksums of the crates' packages, as the lock file has them."""
    blocks = (ROOT / "Cargo.lock").read_text().split("[[package]]")[1:]
    fields = [dict(re.findall(r'^(\w+) = "(.*)"$', block, re.MULTILINE)) for block in blocks]
    return {(block["name"], block["version"]): block.get("checksum") for block in fields}


def expression(package):
    # Some write a slash, which is no SPDX.
    return re.sub(r"\s*/\s*", " OR ", package["license"] or "")


def component(package, checksums):
    name, version = package["name"], package["version"]
    url = f"pkg:cargo/{name}@{version}"
    made = {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url, "scope": "required"}
    if package["description"]:
        made["description"] = " ".join(package["description"].split())
    checksum = checksums[name, version]
    if checksum:
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["license"]:
        made["licenses"] = [{"expression": expression(package)}]
    if package["repository"]:
        made["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return made


def materials(packages):
    checksums = locked()
    refs = {package["id"]: f"pkg:cargo/{package['name']}@{package['version']}" for package in packages}
    nodes = json.loads(cargo("metadata", "--format-version", "1"))["resolve"]["nodes"]
    dependencies = [
        {"ref": refs[node["id"]],
         "dependsOn": sorted({refs[dep["pkg"]] for dep in node["deps"]
                              if dep["pkg"] in refs and any(kind["kind"] is None for kind in dep["dep_kinds"])})}
        for node in nodes if node["id"] in refs
    ]
    ours, rest = [[package for package in packages if (package["source"] is None) == is_ours] for is_ours in (True, False)]
    main = component(ours[0], checksums) | {"type": "application"}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": main},
        "components": [component(package, checksums) for package in rest],
        "dependencies": sorted(dependencies, key=lambda dependency: dependency["ref"]),
    }


def texts(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    names = {path.name for path in folder.iterdir() if path.is_file() and FILES.match(path.name)}
    names.update(INSIDE.get(package["name"], []))
    if package["license_file"]:
        names.add(package["license_file"])
    return [(folder / name).read_text(errors="replace").strip() for name in sorted(names)]


def licenses(packages):
    counts = collections.Counter(expression(package) for package in packages)
    users, shown, borrowed = collections.defaultdict(set), {}, []
    repositories = collections.defaultdict(set)

    def use(text, package):
        # The same words, however they are broken into lines.
        key = " ".join(text.split())
        shown.setdefault(key, text)
        users[key].add(f"{package['name']} {package['version']}")
        repositories[package["repository"]].add(key)

    for package in packages:
        found = texts(package)
        for text in found:
            use(text, package)
        if not found:
            borrowed.append(package)
    missing = []
    for package in borrowed:
        named = set(re.findall(r"[A-Za-z0-9.-]+", expression(package)))
        siblings = repositories[package["repository"]] if package["repository"] else set()
        fitting = [key for name, start in HEADINGS.items() if name in named for key in sorted(siblings) if start in key[:400]]
        # The text of this one is the same for all.
        if not fitting and "Apache-2.0" in named:
            fitting = [max((key for key in users if key.startswith("Apache License Version 2.0")), key=lambda key: (len(users[key]), key))]
        for key in fitting[:1]:
            use(shown[key], package)
        if not fitting:
            missing.append(package)
    out = ["# Licences of what is in wq-run", "",
           "wq-run itself is licensed under Apache-2.0: see LICENSE. It is built from these crates, whose licences are:", ""]
    out += [f"- {name}: {count} crates" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    if missing:
        out += ["", "The packages of these crates have no text of their licence. It is the one that they name:", ""]
        out += [f"- {package['name']} {package['version']}: {expression(package)}, {', '.join(package['authors']) or package['repository']}" for package in missing]
    for key in sorted(users, key=lambda key: (-len(users[key]), key)):
        out += ["", "## " + ", ".join(sorted(users[key])), "", "```text", shown[key].replace("```", "'''"), "```"]
    return "\n".join(out) + "\n", missing


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    packages = crates()
    unlicensed = [package["name"] for package in packages if not package["license"] and not package["license_file"]]
    if unlicensed:
        sys.exit(f"these crates name no licence: {', '.join(unlicensed)}")
    pathlib.Path(sys.argv[1]).write_text(json.dumps(materials(packages), separators=(",", ":"), ensure_ascii=False) + "\n")
    if len(sys.argv) == 3:
        text, missing = licenses([package for package in packages if package["source"]])
        pathlib.Path(sys.argv[2]).write_text(text)
        print(f"{len(packages)} crates, {len(missing)} of them without a text of their licence", file=sys.stderr)


main()
