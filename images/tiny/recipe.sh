# A stock Debian kernel and busybox: boots to a prompt in seconds. For tests and first steps.
# shellcheck shell=bash

packages=(linux-image-cloud-amd64 busybox-static)
artifacts=(tiny.qcow2 vmlinuz initrd.img)

disk_guid=3f3f0a52-6a0c-4b0b-9d0b-0d1f6f1c7101
root_guid=3f3f0a52-6a0c-4b0b-9d0b-0d1f6f1c7111
root_uuid=6d1f1f0e-0c9c-4c57-a8ff-9d6f2c1d7112

build() {
    local work=$1 version root=$1/root initrd=$1/initrd
    say "kernel and busybox"
    mkdir -p "$work/packages" "$root"/{bin,dev,etc,proc,sys,run,tmp,root,boot/grub,var/lib,www} "$initrd"/{bin,dev,etc,proc,sys,root}
    unpack "$work/packages" "${packages[@]}"
    version=$(basename "$work"/packages/boot/vmlinuz-* | sed 's/^vmlinuz-//')

    for tree in "$root" "$initrd"; do
        install -m 755 "$work/packages/bin/busybox" "$tree/bin/busybox"
        ln -s busybox "$tree/bin/sh"
    done
    # All of the modules a guest here needs are in the initrd, as it loads them before the switch.
    copy_modules "$work/packages" "$version" "$initrd" \
        virtio_pci virtio_blk virtio_net virtio_rng ext4 button evdev af_packet
    sed "s/@root_uuid@/$root_uuid/" "$here/tiny/initrd-init" | install -m 755 /dev/stdin "$initrd/init"
    cpio_zstd "$initrd" "$work/result/initrd.img"

    install -m 755 "$here/tiny/init" "$root/init"
    install -m 755 "$here/tiny/udhcpc" "$root/etc/udhcpc"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'a tiny instance' >"$root/www/index.html"
    install -m 644 "$work/packages/boot/vmlinuz-$version" "$work/result/vmlinuz"
    cp "$work/result/vmlinuz" "$root/boot/vmlinuz-$version"
    cp "$work/result/initrd.img" "$root/boot/initrd.img-$version"
    sed "s/@version@/$version/g; s/@root_uuid@/$root_uuid/g" "$here/tiny/grub.cfg" >"$root/boot/grub/grub.cfg"

    say "disk image"
    ext4_disk "$work/disk.raw" "$root" 128 $disk_guid $root_guid $root_uuid
    qcow2 "$work/disk.raw" "$work/result/tiny.qcow2" zlib
}
