# A host of the lab: what an agent needs around it, and the tools of tests and benchmarks.
# shellcheck shell=bash

packages=(
    linux-image-cloud-amd64 busybox-static kmod procps iproute2 nftables perl-base qemu-utils e2fsprogs
    openssh-server ca-certificates iputils-ping tcpdump strace
    fio iperf3 qemu-system-x86 cpio
    # A directory that hosts share: one of them serves it, all of them mount it.
    nfs-kernel-server nfs-common
)
artifacts=(vmlinuz initrd.img root.ext4)

root_uuid=6d1f1f0e-0c9c-4c57-a8ff-9d6f2c1d3112

build() {
    local work=$1 version root=$1/root initrd=$1/initrd
    tree "$root" "${packages[@]}"
    version=$(basename "$root"/boot/vmlinuz-* | sed 's/^vmlinuz-//')
    mv "$root/boot/vmlinuz-$version" "$work/result/vmlinuz"
    rm -rf "$root"/boot/* "$root"/usr/share/{doc,man,locale,info} "$root"/var/cache/apt "$root"/var/lib/apt/lists/*
    find "$root/var/log" -type f -delete
    rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/cache/ldconfig/aux-cache
    install -m 755 "$here/lab-host/boot" "$root/usr/sbin/lab-boot"
    install -m 755 "$here/lab-host/keep-patched" "$root/usr/sbin/keep-patched"
    install -m 644 "$here/lab-host/inittab" "$root/etc/inittab"
    mkdir -p "$root/lab" "$root/var/lib/ecs" "$root/run/sshd" "$root/root/.ssh"

    mkdir -p "$initrd"/{bin,dev,proc,sys,lower,upper,root}
    install -m 755 "$root/bin/busybox" "$initrd/bin/busybox"
    ln -s busybox "$initrd/bin/sh"
    copy_modules "$root" "$version" "$initrd" virtio_pci virtio_blk ext4 overlay
    install -m 755 "$here/lab-host/initrd-init" "$initrd/init"
    cpio_zstd "$initrd" "$work/result/initrd.img"

    # No compression: an emulated CPU reads plain blocks faster than it decompresses.
    say "root file system"
    truncate -s 1500M "$work/result/root.ext4"
    ext4_label=lab-host ext4_file "$work/result/root.ext4" "$root" 1500 $root_uuid
}
