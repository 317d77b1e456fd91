# Builds an image unless one of the same recipe and package versions is there. Sourced by build.sh.

# After this long the archive is asked again whether a package has a newer version.
max_age_days=7

recipe_key() {
    (cd "$here" && find build.sh steps "$1" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-32)
}

build_cached() {
    local name=$1 final=$out/$1 recipe key
    # A recipe sets: packages, artifacts, and the function build DIR.
    packages=() artifacts=() mmdebstrap_options=()
    # shellcheck disable=SC1090
    source "$here/$name/recipe.sh"
    recipe=$(recipe_key "$name")
    exec 9>"$out/.lock.$name"
    flock 9

    if [[ -z $rebuild && -f $final/key ]] && grep -q "^recipe $recipe\$" "$final/key" &&
        [[ -n $(find "$final/key" -mtime -$max_age_days) ]]; then
        say "reused: ${final#"$PWD"/}"
        return
    fi
    refresh_package_lists
    local list
    list=$(resolve "${packages[@]}")
    key="recipe $recipe
packages $(sha256sum <<<"$list" | cut -c1-32)"
    if [[ -z $rebuild && -f $final/key && $(<"$final/key") == "$key" ]]; then
        touch "$final/key"
        say "reused, no package has changed: ${final#"$PWD"/}"
        return
    fi

    # The newest package's date, and not today's or the archive's: the same packages give the same
    # image, and no file of a package is younger.
    mapfile -t resolved < <(awk '{print $1}' <<<"$list")
    download "${packages[@]}"
    SOURCE_DATE_EPOCH=$(newest_package)
    [[ $SOURCE_DATE_EPOCH =~ ^[0-9]+$ ]] || fail "the packages in $apt_state/debs have no dates; delete that folder"
    export SOURCE_DATE_EPOCH E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH
    local work=$out/.work.$name
    remove_tree "$work"
    mkdir -p "$work/result"
    build "$work"
    local a
    for a in "${artifacts[@]}"; do
        [[ -s $work/result/$a ]] || fail "the recipe made no $a"
    done
    echo "$key" >"$work/result/key"
    rm -rf "$final"
    mv "$work/result" "$final"
    remove_tree "$work"
    say "done: $(cd "$final" && du -h --apparent-size "${artifacts[@]}" | awk '{print $2 " " $1}' | xargs)"
}

# A tree may still have mounts in it when an earlier build was killed.
remove_tree() {
    local mount
    [[ -e $1 ]] || return 0
    while read -r mount; do umount -l "$mount"; done < <(awk -v p="$1/" 'index($2, p) == 1 {print $2}' /proc/mounts | sort -r)
    rm -rf --one-file-system "$1"
}
