#!/usr/bin/env python3
"""Lists what makes wq-run large: the sections of a program, and its functions and constants by the crate that they come from.

    STRIP=none scripts/build-release.sh native build/wq-run.symbols
    scripts/sizes.py build/wq-run.symbols            the crates
    scripts/sizes.py build/wq-run.symbols CRATE      its largest functions

A generic function counts for the crate that defines it, not for those that use it. Debian has nm, readelf and c++filt in binutils.
"""

import collections
import re
import subprocess
import sys

LARGEST = 60
# A path at the start of a name, or after what can stand before one: `<aws_config::Loader as core::fmt::Debug>::fmt`.
ROOT = re.compile(r"(?:^|[<( &,*\[+])(?:as |dyn |mut |const )?([a-z_][a-z0-9_]*)::")
STANDARD = {"core", "alloc", "std"}


def output(*words, given=None):
    return subprocess.run(words, input=given, check=True, text=True, stdout=subprocess.PIPE).stdout


def symbols(program):
    """Size and name of each function and constant. Those that the linker has folded count once."""
    found = {}
    for line in output("nm", "--size-sort", "--print-size", program).splitlines():
        fields = line.split(" ", 3)
        if len(fields) == 4:
            found.setdefault(fields[0], (int(fields[1], 16), fields[3]))
    names = output("c++filt", "--format=rust", given="\n".join(name for _, name in found.values())).split("\n")
    # Hashes would tell apart what is the same function twice.
    return [(size, re.sub(r"\[[0-9a-f]{16}\]|::h[0-9a-f]{16}$", "", name)) for (size, _), name in zip(found.values(), names)]


def crate(name):
    roots = ROOT.findall(name)
    foreign = [root for root in roots if root not in STANDARD]
    # Without a path it is C, where the name's beginning is the library's, as in sqlite3_step and ZSTD_compress.
    return (foreign or roots or ["C: " + re.match(r"[A-Za-z]*", name)[0]])[0]


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    found = symbols(sys.argv[1])
    if not found:
        sys.exit(f"{sys.argv[1]} has no symbols: build it with STRIP=none")
    if len(sys.argv) == 3:
        of_crate = sorted((entry for entry in found if crate(entry[1]) == sys.argv[2]), reverse=True)
        for size, name in of_crate[:LARGEST]:
            print(f"{size:9} {name}")
        return
    for line in output("readelf", "--section-headers", "--wide", sys.argv[1]).splitlines():
        section = re.search(r"\] (\.\S+) +\w+ +\w+ \w+ (\w+) \w\w +\w*A", line)
        if section and int(section[2], 16) >= 10_000:
            print(f"{int(section[2], 16):9} {section[1]}")
    sizes, counts = collections.Counter(), collections.Counter()
    for size, name in found:
        sizes[crate(name)] += size
        counts[crate(name)] += 1
    print()
    for name, size in sizes.most_common(LARGEST):
        print(f"{size:9} {name} ({counts[name]})")


main()
