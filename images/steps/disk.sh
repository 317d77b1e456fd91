# File systems and partition tables in plain files: no loop devices, no mounts. Sourced by build.sh.

# ext4_disk RAW TREE SIZE_MIB DISK_GUID PARTITION_GUID FS_UUID: a GPT disk as Debian's cloud images
# have it: partition 14 for GRUB, partition 1 the root, last on the disk so that it can grow.
ext4_disk() {
    local raw=$1 tree=$2 mib=$3 disk=$4 partition=$5 uuid=$6 start_mib=4
    rm -f "$raw"
    truncate -s "${mib}M" "$raw"
    quietly sfdisk --quiet "$raw" <<-END
		label: gpt
		label-id: $disk
		1 : start=${start_mib}MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=$partition
		14 : start=1MiB, size=3MiB, type=21686148-6449-6E6F-744E-656564454649, uuid=${partition%?}e
	END
    # A MiB less than the disk: the backup partition table is behind it.
    ext4_file "$raw" "$tree" $((mib - start_mib - 1)) "$uuid" $((start_mib << 20))
}

# ext4_file FILE TREE SIZE_MIB FS_UUID [OFFSET]
ext4_file() {
    local file=$1 tree=$2 mib=$3 uuid=$4 offset=${5:-0}
    find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -print0 | xargs -0 -r touch -h -d "@$SOURCE_DATE_EPOCH"
    quietly mke2fs -q -F -t ext4 -U "$uuid" -E "hash_seed=$uuid,offset=$offset,root_owner=0:0,nodiscard" \
        -m 1 -L "${ext4_label:-root}" -d "$tree" "$file" "${mib}M"
    # mke2fs copies when an inode was last changed and read, which nothing can set on a tree.
    find "$tree" -printf 'set_inode_field "/%P" ctime @%%\nset_inode_field "/%P" atime @%%\n' |
        sed "s/@%\$/@$SOURCE_DATE_EPOCH/" >"$tree.times"
    # It ends well whatever it finds; it repeats each command, and any other line is an error.
    local errors
    errors=$(debugfs -w -f "$tree.times" "$file?offset=$offset" 2>&1 | grep -v '^debugfs' || true)
    [[ -z $errors ]] || fail "debugfs: ${errors:0:500}"
    rm "$tree.times"
}

# qcow2 RAW FILE COMPRESSION: one thread, so that clusters are always in the same order.
qcow2() {
    quietly qemu-img convert -m 1 -c -f raw -O qcow2 -o "compression_type=$3,compat=1.1" "$1" "$2"
    quietly qemu-img check "$2"
    rm -f "$1"
}

# cpio_zstd TREE FILE: an initramfs.
cpio_zstd() {
    find "$1" -print0 | xargs -0 -r touch -h -d "@$SOURCE_DATE_EPOCH"
    (cd "$1" && find . -print0 | sort -z | cpio --quiet --null -o -H newc --reproducible -R 0:0) | zstd -q -T0 -12 >"$2"
}

# copy_modules ROOT_WITH_MODULES VERSION TARGET MODULE...: modules and what they depend on.
copy_modules() {
    local root=$1 version=$2 target=$3 module file
    shift 3
    [[ -f $root/lib/modules/$version/modules.dep ]] || depmod -b "$root" "$version"
    for module in "$@"; do
        modprobe -d "$root" -S "$version" --show-depends "$module" 2>/dev/null |
            awk '$1 == "insmod" {print $2}'
    done | sort -u | while read -r file; do
        install -D -m 644 "$file" "$target/${file#"$root"/}"
    done
    # The last of them only depmod reads.
    cp "$root/lib/modules/$version"/modules.{order,builtin,builtin.modinfo} "$target/lib/modules/$version/"
    depmod -b "$target" "$version"
    rm "$target/lib/modules/$version/modules.builtin.modinfo"
}
