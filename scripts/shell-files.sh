#!/bin/sh
# Writes the completions and manual pages of a wq-run program into a folder, laid out as below share/ of a prefix. A version
# without them writes nothing.
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
