#!/bin/sh
# What a change must pass before a review: formatting, clippy, shellcheck, actionlint, cargo-deny, typos, proselint.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

for workspace in . guest-examples; do
    (
        cd "$workspace"
        cargo fmt --all --check
        cargo clippy --locked --workspace --all-targets -- -D warnings
    )
done

# The guests that have dependencies, and with them a lock file of their own.
for guest in lookup-rust api-rust; do
    (
        cd "guest-examples/$guest"
        cargo fmt --check
        cargo clippy --locked --all-targets --target-dir ../target -- -D warnings
    )
done

# `make guests` installs these two.
go=build/toolchains/go/go/bin/gofmt
if [ -x "$go" ]; then
    unformatted=$("$go" -l guest-examples)
    [ -z "$unformatted" ] || die "not as gofmt writes it: $unformatted"
fi
zig=build/toolchains/zig/ziglang/zig
if [ -x "$zig" ]; then
    "$zig" fmt --check guest-examples/shrink-zig
fi

# Clippy would compile everything once more, with other flags, for these few lines.
(
    cd fuzz
    cargo fmt --check
    cargo metadata --locked --format-version 1 >/dev/null || die "fuzz/Cargo.lock is stale: cargo update -w, in fuzz/"
)

PATH=$(pwd)/build/venv/bin:$PATH
if command -v shellcheck >/dev/null; then
    # By what stands in the folders, not by git, so that an unpacked archive is checked too.
    find . \( -name target -o -name node_modules -o -name .git -o -path ./build \) -prune -o \
        -type f \( -name '*.sh' -o -path './.ci/run' \) -exec shellcheck -x -P SCRIPTDIR/.. -P SCRIPTDIR {} +
elif [ -n "${CI:-}" ]; then
    die "shellcheck is missing: run scripts/install.sh lint"
else
    echo "SKIPPED: no shellcheck" >&2
fi

if command -v actionlint >/dev/null; then
    actionlint .github/workflows/*.yml
elif [ -n "${CI:-}" ]; then
    die "actionlint is missing: run scripts/install.sh lint"
else
    echo "SKIPPED: no actionlint" >&2
fi

# Advisories need a download, and are looked up elsewhere.
if command -v cargo-deny >/dev/null; then
    cargo deny --log-level error check bans licenses sources
elif [ -n "${CI:-}" ]; then
    die "cargo-deny is missing: run scripts/install.sh lint"
else
    echo "SKIPPED: no cargo-deny" >&2
fi

if command -v typos >/dev/null; then
    typos
elif [ -n "${CI:-}" ]; then
    die "typos is missing: run scripts/install.sh lint"
else
    echo "SKIPPED: no typos" >&2
fi

# The tables of measured figures are written by a program.
if command -v proselint >/dev/null; then
    find . \( -name target -o -name .git -o -path ./build -o -name node_modules \) -prune -o -name '*.md' ! -name RESULTS.md \
        -exec proselint check --config scripts/proselint.json -o compact {} +
elif [ -n "${CI:-}" ]; then
    die "proselint is missing: run scripts/install.sh lint"
else
    echo "SKIPPED: no proselint" >&2
fi
