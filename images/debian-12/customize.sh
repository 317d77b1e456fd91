#!/usr/bin/env bash
# Turns a tree of packages into a machine's root: customize.sh ROOT, with root_uuid in the environment.
set -euo pipefail
root=$1

cat >"$root/etc/fstab" <<END
UUID=$root_uuid / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1
END

cat >"$root/etc/default/grub" <<'END'
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --speed=115200"
GRUB_DISABLE_OS_PROBER=true
END

# grub-mkconfig asks grub-probe about the disk under /, which does not exist yet.
chroot "$root" dpkg-divert --quiet --local --rename --divert /usr/sbin/grub-probe.real --add /usr/sbin/grub-probe
cat >"$root/usr/sbin/grub-probe" <<END
#!/bin/sh
for word; do case \$word in --target=*) target=\${word#--target=} ;; esac; done
case "\$* " in *"-t "*) target=\$(echo "\$*" | sed 's/.*-t *\([a-z_]*\).*/\1/') ;; esac
case \$target in
device) echo /dev/vda1 ;;
fs_uuid) echo $root_uuid ;;
fs) echo ext2 ;;
partmap) echo gpt ;;
partuuid | fs_label | abstraction) ;;
*) exit 1 ;;
esac
END
chmod 755 "$root/usr/sbin/grub-probe"
mkdir -p "$root/boot/grub" "$root/dev/disk/by-uuid"
: >"$root/dev/disk/by-uuid/$root_uuid"
chroot "$root" grub-mkconfig -o /boot/grub/grub.cfg
rm -r "$root/dev/disk" "$root/usr/sbin/grub-probe"
chroot "$root" dpkg-divert --quiet --local --rename --remove /usr/sbin/grub-probe
grep -q "root=UUID=$root_uuid" "$root/boot/grub/grub.cfg"

# As in Debian's own cloud images; without it cloud-init sets a locale that was never generated.
echo LANG=C.UTF-8 >"$root/etc/default/locale"

ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
rm -f "$root/etc/hostname"
cat >"$root/etc/hosts" <<'END'
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
END
chroot "$root" systemctl enable systemd-networkd systemd-resolved serial-getty@ttyS0

# What every machine must have of its own is made at its first boot.
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
: >"$root/etc/machine-id"
find "$root/var/log" "$root/var/cache/apt" "$root/tmp" -type f -delete
rm -f "$root"/var/cache/ldconfig/aux-cache "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
