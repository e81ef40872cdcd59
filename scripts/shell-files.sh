#!/bin/sh
# Writes what a program of wq-run has for shells and for man into a folder, where a prefix has them below share/. A version that
# has none of them writes none.
#
#   scripts/shell-files.sh PROGRAM FOLDER
set -eu
program=$1
folder=$2
part=$(mktemp)
trap 'rm -f "$part"' EXIT

# completions SHELL FILE
completions() {
    if "$program" completions "$1" >"$part" 2>/dev/null; then
        mkdir -p "$folder/${2%/*}"
        cp "$part" "$folder/$2"
    fi
}

completions bash bash-completion/completions/wq-run
completions zsh zsh/site-functions/_wq-run
completions fish fish/vendor_completions.d/wq-run.fish
if "$program" man --help >/dev/null 2>&1; then
    mkdir -p "$folder/man/man1"
    "$program" man "$folder/man/man1" >/dev/null
fi
