#!/usr/bin/env bash
# Installs wq-run, and its manual pages and completions as far as this version has them.
#
#   PREFIX=/usr/local DESTDIR= scripts/install-program.sh
#
# It compiles a release build. FROM=IMAGE takes the program out of an image of wq-run instead, and FROM=/PATH a file.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

prefix=$(realpath -m "${DESTDIR:-}${PREFIX:-/usr/local}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case ${FROM:-} in
    '')
        scripts/install.sh build
        cargo build --release --locked -p wq-run
        program=${CARGO_TARGET_DIR:-target}/release/wq-run
        ;;
    /* | ./*)
        program=$FROM
        ;;
    *)
        need_podman
        container=$(podman create "$FROM") || die "there is no image $FROM: see 'make image'"
        podman cp "$container:/usr/local/bin/wq-run" "$work/wq-run"
        podman rm "$container" >/dev/null
        program=$work/wq-run
        ;;
esac
"$program" --version >"$work/version" || die "$program does not run here"

install -D -m 755 "$program" "$prefix/bin/wq-run"
scripts/shell-files.sh "$program" "$work/share"
if [ -d "$work/share" ]; then
    (cd "$work/share" && find . -type f -exec install -D -m 644 {} "$prefix/share/{}" \;)
fi
echo "installed $(head -n 1 "$work/version") in $prefix/bin"
case :$PATH: in
    *":$prefix/bin:"*) ;;
    *) echo "$prefix/bin is not on the PATH" >&2 ;;
esac
