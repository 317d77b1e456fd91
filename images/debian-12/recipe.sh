# Debian 12 as its cloud images are: stock kernel, systemd, cloud-init, OpenSSH. Nothing of ours.
# shellcheck shell=bash

packages=(
    systemd-sysv systemd-resolved systemd-timesyncd libpam-systemd dbus udev
    cloud-init cloud-guest-utils netplan.io openssh-server
    linux-image-cloud-amd64 initramfs-tools grub-pc zstd e2fsprogs fdisk
    apt apt-utils ca-certificates curl sudo less vim-tiny
    iproute2 iputils-ping netbase procps kmod tzdata bash-completion
)
artifacts=(debian-12.qcow2)

disk_guid=3f3f0a52-6a0c-4b0b-9d0b-0d1f6f1c1201
root_guid=3f3f0a52-6a0c-4b0b-9d0b-0d1f6f1c1211
root_uuid=6d1f1f0e-0c9c-4c57-a8ff-9d6f2c1d1212

build() {
    local work=$1
    export root_uuid
    mmdebstrap_options=(--customize-hook="$here/debian-12/customize.sh")
    tree "$work/root" "${packages[@]}"
    say "disk image"
    ext4_disk "$work/disk.raw" "$work/root" 4096 $disk_guid $root_guid $root_uuid
    qcow2 "$work/disk.raw" "$work/result/debian-12.qcow2" zstd
}
