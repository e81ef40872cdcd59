#!/usr/bin/env bash
# Makes what a release consists of, in build/dist: a tarball with wq-run, its documentation, its manual pages and completions as
# far as there are any, and the licences of all that is in it; a bill of materials; checksums.
#
#   scripts/dist.sh                       compiles a release build
#   scripts/dist.sh --prebuilt PATH       packs a program that is there already
#
# INTO=FOLDER puts it elsewhere.
#
# The same commit gives the same bytes, by the same toolchains: times come from the commit, paths of this machine are left out,
# and what is not committed is refused.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

program=
case ${1:-} in
    '') scripts/install.sh build ;;
    --prebuilt) program=$(realpath "${2:?needs the path of the program}") ;;
    *)
        sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
need python3 python3
if [ -n "$(git status --porcelain)" ] && [ -z "${DIRTY:-}" ]; then
    die "there are changes that are not committed; DIRTY=yes packs them all the same"
fi
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C

target=$(rustc -vV | sed -n 's/^host: //p')
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name=wq-run-$version-$target
dist=${INTO:-build/dist}
rm -rf "${dist:?}/$name" "$dist/$name".*
mkdir -p "$dist/$name"

if [ -z "$program" ]; then
    home=${CARGO_HOME:-$HOME/.cargo}
    # No path of this machine in messages of panics, in Rust and in the C of ring, SQLite and zstd.
    maps="$home=/cargo $PWD=/wq-run $(rustc --print sysroot)=/rust"
    for map in $maps; do
        RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$map"
        CFLAGS="${CFLAGS:-} -ffile-prefix-map=$map"
    done
    export RUSTFLAGS CFLAGS
    program=build/dist/wq-run
    # Its own folder: with other flags, everything is compiled anew.
    WQ_COMMIT=$(git describe --always --abbrev=12 --exclude '*') CARGO_TARGET_DIR=build/dist/target \
        scripts/build-release.sh native "$program"
fi
install -D -m 755 "$program" "$dist/$name/bin/wq-run"
scripts/shell-files.sh "$dist/$name/bin/wq-run" "$dist/$name/share"
cp -R README.md CHANGELOG.md LICENSE docs deploy "$dist/$name/"
rm -f "$dist/$name/deploy/job/task.wasm"

# What is in the program, and its licences. Sources that are here already cost nothing.
cargo fetch --quiet --locked
python3 scripts/materials.py "$dist/$name.cdx.json" "$dist/$name/THIRD-PARTY-LICENSES.md"
cp "$dist/$name.cdx.json" "$dist/$name/wq-run.cdx.json"

tar --create --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mode='u=rwX,go=rX' --mtime="@$SOURCE_DATE_EPOCH" \
    --directory "$dist" "$name" | gzip -9n >"$dist/$name.tar.gz"
rm -rf "${dist:?}/$name"
(cd "$dist" && sha256sum "$name.tar.gz" "$name.cdx.json" >"SHA256SUMS-$target" && cat "SHA256SUMS-$target")
