#!/bin/sh
# Writes the bill of materials of wq-run, in CycloneDX: the crates that are in the program, with their versions and licences. The
# same lock file gives the same bytes.
#
#   scripts/materials.sh FILE
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
PATH=$PWD/build/tools/bin:$PATH
command -v cargo-cyclonedx >/dev/null || die "there is no cargo-cyclonedx: run scripts/install.sh dist"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
target=$(rustc -vV | sed -n 's/^host: //p')
cargo cyclonedx --quiet --manifest-path runner/Cargo.toml --format json --spec-version 1.5 --target "$target" \
    --override-filename wq-run-materials
# It names the folder of the sources.
sed "s|path+file://$PWD|path+file:///wq-run|g" runner/wq-run-materials.json >"$1"
rm -f runner/wq-run-materials.json
# With --manifest-path it looks at all members of the workspace.
rm -f bench/wq-run-materials.json
