#!/usr/bin/env bash
# Builds the last release beside this build, and runs the tests that have workers of both on one queue. Without a tag v* there is
# no release, and nothing to run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

tag=$(git describe --tags --match 'v[0-9]*' --abbrev=0 2>/dev/null) || {
    echo "SKIPPED: there is no tag v*, so no release to compare with" >&2
    exit 0
}
previous=build/previous/$tag
if [ ! -x "$previous/target/debug/wq-run" ]; then
    rm -rf "$previous"
    mkdir -p "$previous"
    # An archive and no worktree: it leaves nothing in .git.
    git archive "$tag" | tar -x -C "$previous"
    (cd "$previous" && CARGO_TARGET_DIR=target cargo build --locked -p wq-run)
fi
WQ_PREVIOUS=$(realpath "$previous/target/debug/wq-run")
export WQ_PREVIOUS
echo "this build beside $("$WQ_PREVIOUS" --version | head -n 1), of $tag"
cargo test --locked --test it upgrade
