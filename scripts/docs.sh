#!/bin/bash
# Makes a book of docs/, in build/book/html: `make docs`. The pages link to files outside of docs/, so the book has the same folders.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

PATH=$(pwd)/build/tools/bin:$PATH
if ! command -v mdbook >/dev/null; then
    echo "installing mdBook into build/tools: some minutes, once" >&2
    if ! cargo install --quiet --locked --root build/tools --version "^0.5" mdbook; then
        [ -z "${CI:-}" ] || die "could not install mdBook"
        echo "SKIPPED: there is no mdBook, and it could not be installed" >&2
        exit 0
    fi
fi

book=build/book
rm -rf "$book"
mkdir -p "$book/src"
git ls-files -z -- docs examples deploy guest-examples bench '*.md' LICENSE |
    while IFS= read -r -d '' file; do
        mkdir -p "$book/src/$(dirname "$file")"
        cp "$file" "$book/src/$file"
    done
mv "$book/src/docs/book.toml" "$book/book.toml"
# mdBook wants its summary at the top.
sed 's|](|](docs/|; s|](docs/\.\./|](|' docs/SUMMARY.md >"$book/src/SUMMARY.md"
rm "$book/src/docs/SUMMARY.md"
mdbook build "$book" --dest-dir "$(pwd)/$book/html"
echo "$book/html/index.html"
