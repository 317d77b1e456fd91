#!/usr/bin/env bash
# Builds an image twice, in folders of their own, and compares the results byte by byte.
# Usage: tests/images/reproducible.sh [IMAGE...]     default: tiny, the quickest
set -euo pipefail
cd "$(dirname "$0")/../.."
images=("$@")
((${#images[@]})) || images=(tiny)
work=target/images-twice
rm -rf "$work"
mkdir -p "$work"

images/build.sh --out "$work/first" "${images[@]}"
# The second is given the first one's downloads, and a time zone, a locale and a umask of its own, none
# of which may show.
mkdir -p "$work/second"
cp -a "$work/first/.apt" "$work/second/.apt"
(umask 077 && TZ=Pacific/Kiritimati LC_ALL=C.UTF-8 images/build.sh --out "$work/second" --rebuild "${images[@]}")

status=0
for image in "${images[@]}"; do
    for first in "$work/first/$image"/*; do
        second=$work/second/$image/${first##*/}
        if cmp "$first" "$second"; then
            echo "$image: ${first##*/} is the same, $(stat -c %s "$first") bytes"
        else
            echo "error: $image: ${first##*/} differs between two builds; both are in $work" >&2
            status=1
        fi
    done
done
((status)) || rm -rf "$work"
exit $status
