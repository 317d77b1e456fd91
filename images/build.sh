#!/usr/bin/env bash
# Builds disk images, each once per recipe and set of package versions.
#
#   images/build.sh [--out DIR] [--rebuild] IMAGE...
#
# An image is a folder here with a recipe.sh. The result is DIR/IMAGE/, DIR being target/images.
set -euo pipefail
# Files and folders made here end up in images.
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$here/../target/images
rebuild=
names=()
while (($#)); do
    case $1 in
    --out) out=${2:?--out needs a folder} && shift ;;
    --rebuild) rebuild=yes ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
    -*) echo "build.sh: unknown option $1; see --help" >&2 && exit 2 ;;
    *) names+=("$1") ;;
    esac
    shift
done
((${#names[@]})) || {
    echo "build.sh: name an image: $(cd "$here" && echo */recipe.sh | sed 's:/recipe.sh::g')" >&2
    exit 2
}
mkdir -p "$out"
out=$(cd "$out" && pwd)

# shellcheck source=steps/progress.sh
source "$here/steps/progress.sh"
# shellcheck source=steps/packages.sh
source "$here/steps/packages.sh"
# shellcheck source=steps/disk.sh
source "$here/steps/disk.sh"
# shellcheck source=steps/cache.sh
source "$here/steps/cache.sh"

require_tools mmdebstrap:mmdebstrap mke2fs:e2fsprogs sfdisk:fdisk qemu-img:qemu-utils cpio:cpio zstd:zstd
for name in "${names[@]}"; do
    [[ -f $here/$name/recipe.sh ]] || fail "there is no image $name: $here/$name/recipe.sh is missing"
    build_cached "$name"
done
