# Debian packages: where from, which versions, and trees made of them. Sourced by build.sh.

suite=bookworm
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The archives this machine itself uses for the suite, so that a local mirror is used where there is
# one; otherwise Debian's own.
debian_sources() {
    local lines
    lines=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
        awk -v s=$suite '$3 == "Debian" && ($2 == s || $2 == s"-updates" || $2 == s"-security") \
            { print "deb [signed-by=KEYRING] " $1 " " $2 " main" }' | sort -u)
    if ! grep -q " $suite main" <<<"$lines"; then
        lines="deb [signed-by=KEYRING] http://deb.debian.org/debian $suite main
deb [signed-by=KEYRING] http://deb.debian.org/debian $suite-updates main
deb [signed-by=KEYRING] http://deb.debian.org/debian-security $suite-security main"
    fi
    sed "s:KEYRING:$keyring:" <<<"$lines"
}

# An apt of our own, with nothing installed: it knows versions, never this machine's packages.
apt_state=$out/.apt
private_apt() {
    local command=$1
    shift
    "$command" -o Dir="$apt_state" -o Dir::State::status="$apt_state/status" \
        -o Dir::Etc::trustedparts=/etc/apt/trusted.gpg.d -o APT::Install-Recommends=false \
        -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User=root "$@"
}

refresh_package_lists() {
    [[ -z ${package_lists_fresh:-} ]] || return 0
    mkdir -p "$apt_state"/{etc/apt/{apt.conf.d,preferences.d,sources.list.d},var/lib/apt/lists/partial,var/cache/apt/archives/partial,debs}
    : >"$apt_state/status"
    debian_sources >"$apt_state/etc/apt/sources.list"
    say "package lists from $(awk '{print $3}' "$apt_state/etc/apt/sources.list" | sort -u | xargs)"
    quietly private_apt apt-get -q update
    package_lists_fresh=yes
}

# resolve PACKAGE...: one "file hash" line for each package a tree with them would have.
resolve() {
    private_apt apt-get -qq --print-uris -y install "$@" '?essential' | awk '{print $2, $4}' | sort
}

# download PACKAGE...: the files of what resolve lists, in $apt_state/debs.
download() {
    mkdir -p "$apt_state/debs/partial"
    followed "downloading packages" "${#resolved[@]}" '^Get:' \
        private_apt apt-get -q -y --download-only -o Acquire::Retries=3 \
        -o Dir::Cache::archives="$apt_state/debs/" install "$@" '?essential'
}

# newest_package: when the newest file of `resolved` was built, in seconds since 1970. A package's
# first member says it, from byte 24 of the file on.
newest_package() {
    local deb
    for deb in "${resolved[@]}"; do
        head -c 36 "$apt_state/debs/$deb" | tail -c 12 && echo
    done | sort -n | tail -n 1 | tr -d ' '
}

# tree DIR PACKAGE...: a Debian tree. Hooks: the array mmdebstrap_options.
tree() {
    local dir=$1
    shift
    local packages
    packages=$(IFS=, && echo "$*")
    # Each package is unpacked and set up.
    followed "installing packages" $((${#resolved[@]} * 2)) '^(Unpacking|Setting up) ' \
        mmdebstrap --verbose --mode=root --variant=minbase --architectures=amd64 --include="$packages" \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' \
        --skip=download/empty --skip=essential/unlink \
        --setup-hook='mkdir -p "$1/var/cache/apt/archives"' \
        --setup-hook="cp -l $apt_state/debs/*.deb \"\$1/var/cache/apt/archives/\" 2>/dev/null || true" \
        --customize-hook="cp -nl \"\$1\"/var/cache/apt/archives/*.deb $apt_state/debs/ || true" \
        "${mmdebstrap_options[@]}" "$suite" "$dir" - <"$apt_state/etc/apt/sources.list"
}

# unpack DIR PACKAGE...: the files of packages, no scripts run; linux-image-* stands for a kernel.
unpack() {
    local dir=$1 package deb
    shift
    for deb in "${resolved[@]}"; do
        for package in "$@"; do
            # shellcheck disable=SC2254
            case $deb in
            ${package/#linux-image-*/linux-image-[0-9]*}_*) dpkg-deb -x "$apt_state/debs/$deb" "$dir" ;;
            esac
        done
    done
}
