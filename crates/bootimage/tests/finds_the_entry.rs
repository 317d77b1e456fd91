//! Disks of the distributions' shapes, and the entry that must be found on each.

mod disks;

use bootimage::{BootFiles, Error, Limits, Table, find};
use disks::*;

fn found(disk: Vec<u8>) -> BootFiles {
    find(Box::new(disk), Limits::default()).expect("bootable")
}

fn error(disk: Vec<u8>) -> Error {
    find(Box::new(disk), Limits::default()).expect_err("not bootable")
}

/// Kernel and initrd of the entry, as written out.
fn files(found: &BootFiles) -> (Vec<u8>, Vec<u8>) {
    let (mut kernel, mut initrd) = (Vec::new(), Vec::new());
    assert_eq!(found.write_kernel(&mut kernel).expect("kernel"), kernel.len() as u64);
    assert_eq!(found.write_initrd(&mut initrd).expect("initrd"), initrd.len() as u64);
    (kernel, initrd)
}

#[test]
fn debian_on_gpt() {
    let found = found(debian_disk());
    assert_eq!(found.title(), "Debian GNU/Linux");
    assert_eq!(found.kernel_path(), "/boot/vmlinuz-6.1.0-18");
    assert_eq!(found.initrd_paths().collect::<Vec<_>>(), ["/boot/initrd.img-6.1.0-18"]);
    assert_eq!(
        found.command_line(),
        format!("root=UUID={ROOT_UUID} ro console=tty0 console=ttyS0,115200")
    );
    assert_eq!((found.filesystem(), found.partition()), ("ext4", (Table::Gpt, 1)));
    assert_eq!(files(&found), (kernel(18), initrd(18)));
}

#[test]
fn the_default_by_number_title_and_id_also_in_submenus() {
    let title = "Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux 6.1.0-9";
    let id = format!("gnulinux-advanced-{ROOT_UUID}>gnulinux-6.1.0-9-advanced-{ROOT_UUID}");
    for (default, path) in [
        ("0", "/boot/vmlinuz-6.1.0-18"),
        ("1>1", "/boot/vmlinuz-6.1.0-9"),
        (title, "/boot/vmlinuz-6.1.0-9"),
        (&id, "/boot/vmlinuz-6.1.0-9"),
        ("1", "/boot/vmlinuz-6.1.0-18"),
        ("no such entry", "/boot/vmlinuz-6.1.0-18"),
        ("77", "/boot/vmlinuz-6.1.0-18"),
    ] {
        let found = found(ext4(ROOT_UUID, 8, &debian_tree(default)));
        assert_eq!(found.kernel_path(), path, "default {default:?}");
    }
}

#[test]
fn the_saved_entry_of_the_environment_block() {
    let mut tree = debian_tree("${saved_entry}");
    let mut block = b"# GRUB Environment Block\nsaved_entry=1>1\nnext_entry=0\n".to_vec();
    block.resize(1024, b'#');
    tree.push(file("/boot/grub/grubenv", block));
    let found = found(ext4(ROOT_UUID, 8, &tree));
    // `next_entry` is for one boot, and nothing here could clear it.
    assert_eq!(found.kernel_path(), "/boot/vmlinuz-6.1.0-9");
    assert_eq!(files(&found), (kernel(9), initrd(9)));
}

/// After a power cut the latest configuration may be in the journal only.
#[test]
fn what_is_only_in_the_journal() {
    for (options, open) in [
        (&["-b", "4096"][..], "jo -c"),
        (&["-b", "4096", "-O", "^metadata_csum"], "jo"),
        (&["-b", "4096", "-O", "^metadata_csum,^64bit"], "jo"),
        (&["-b", "1024", "-O", "^metadata_csum,^64bit,^extents"], "jo"),
    ] {
        let old = ext4_with(ROOT_UUID, 12, &debian_tree("1>0"), options);
        let text = configuration(DEBIAN, "1>0");
        let at = old.windows(64).position(|bytes| bytes == &text[..64]).expect("in one piece");
        let size: usize = options[1].parse().expect("a number");
        let mut block = old[at..at + size].to_vec();
        let default = block.windows(5).position(|bytes| bytes == b"\"1>0\"").expect("a default");
        block[default + 3] = b'1';
        let work = tempfile::tempdir().expect("tempdir");
        let data = work.path().join("data");
        std::fs::write(&data, block).expect("write");
        let script = format!("{open}\njw -b {} {}\njc\n", at / size, data.display());
        let found = found(debugfs(&old, &script));
        assert_eq!(found.kernel_path(), "/boot/vmlinuz-6.1.0-9", "{options:?}");
        assert_eq!(files(&found), (kernel(9), initrd(9)), "{options:?}");
    }
}

#[test]
fn a_bare_filesystem_is_the_whole_disk() {
    let found = found(ext4(ROOT_UUID, 8, &debian_tree("0")));
    assert_eq!(found.partition(), (Table::Bare, 0));
    assert_eq!(found.kernel_path(), "/boot/vmlinuz-6.1.0-18");
}

#[test]
fn mbr_with_primary_and_logical_partitions() {
    let root = ext4(ROOT_UUID, 8, &debian_tree("0"));
    let found = found(partitioned("dos", &[("type=83", &root)]));
    assert_eq!(found.partition(), (Table::Mbr, 1));

    // An extended partition by hand: one logical partition, 2048 sectors into it.
    let mut disk = vec![0; 4 << 20];
    disk.extend_from_slice(&root);
    let record = |disk: &mut [u8], at: usize, kind: u8, start: u32, sectors: u32| {
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    };
    let sectors = (root.len() / 512) as u32;
    record(&mut disk, 446, 0x0f, 6144, sectors + 2048);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let extended = 6144 * 512;
    record(&mut disk, extended + 446, 0x83, 2048, sectors);
    disk[extended + 510..extended + 512].copy_from_slice(&[0x55, 0xaa]);
    let found = self::found(disk);
    assert_eq!(found.partition(), (Table::Mbr, 5));
    assert_eq!(files(&found).0, kernel(18));
}

#[test]
fn ubuntu_with_separate_boot_takes_the_initrd() {
    let boot = ext4(
        BOOT_UUID,
        8,
        &vec![
            file("/grub/grub.cfg", configuration(UBUNTU, "")),
            file("/vmlinuz-6.8.0-31", kernel(31)),
            file("/initrd.img-6.8.0-31", initrd(31)),
        ],
    );
    let root = ext4(ROOT_UUID, 8, &vec![file("/etc/fstab", "")]);
    let esp = fat(4, &vec![file("/EFI/ubuntu/notes", "")]);
    let disk = partitioned(
        "gpt",
        &[(&format!("{LINUX}, uuid={PART_UUID}"), &root), (ESP, &esp), (LINUX, &boot)],
    );
    let found = found(disk);
    assert_eq!(found.title(), "Ubuntu");
    assert_eq!(found.partition(), (Table::Gpt, 3));
    assert_eq!(
        found.command_line(),
        format!("root=PARTUUID={PART_UUID} ro console=tty1 console=ttyS0")
    );
    assert_eq!(files(&found), (kernel(31), initrd(31)));
}

fn fedora_entry(version: &str, options: &str) -> Vec<u8> {
    format!(
        "title Fedora Linux ({version}) 40\nversion {version}\nlinux /vmlinuz-{version}\n\
         initrd /initramfs-{version}.img $tuned_initrd\noptions {options}\n\
         grub_users $grub_users\ngrub_class fedora\n"
    )
    .into_bytes()
}

fn fedora_boot(environment: &str) -> Tree {
    let id = "c0ffee";
    vec![
        file("/grub2/grub.cfg", configuration(FEDORA, "")),
        file("/grub2/grubenv", environment),
        file(
            &format!("/loader/entries/{id}-6.8.5-301.conf"),
            fedora_entry("6.8.5-301", "$kernelopts"),
        ),
        file(
            &format!("/loader/entries/{id}-6.10.2-200.conf"),
            fedora_entry("6.10.2-200", &format!("root=UUID={ROOT_UUID} ro rhgb $tuned_params")),
        ),
        file(&format!("/loader/entries/{id}-0-rescue.conf"), fedora_entry("9.9.9", "rescue")),
        file("/vmlinuz-6.8.5-301", kernel(5)),
        file("/initramfs-6.8.5-301.img", initrd(5)),
        file("/vmlinuz-6.10.2-200", kernel(10)),
        file("/initramfs-6.10.2-200.img", initrd(10)),
        file("/vmlinuz-9.9.9", kernel(99)),
        file("/initramfs-9.9.9.img", initrd(99)),
    ]
}

#[test]
fn fedora_takes_the_newest_entry_file() {
    let boot = ext4(BOOT_UUID, 8, &fedora_boot("# GRUB Environment Block\nboot_success=1\n"));
    let mut btrfs = vec![0; 2 << 20];
    btrfs[0x1_0040..0x1_0048].copy_from_slice(b"_BHRfS_M");
    let found = found(partitioned("gpt", &[(LINUX, &boot), (LINUX, &btrfs)]));
    assert_eq!(found.title(), "Fedora Linux (6.10.2-200) 40");
    assert_eq!(found.command_line(), format!("root=UUID={ROOT_UUID} ro rhgb console=ttyS0,115200"));
    assert_eq!(files(&found), (kernel(10), initrd(10)));
}

#[test]
fn fedora_takes_the_saved_entry_with_kernelopts() {
    for (environment, options) in [
        (
            "saved_entry=c0ffee-6.8.5-301\nkernelopts=root=/dev/vda4 ro from=env\n",
            "root=/dev/vda4 ro from=env",
        ),
        ("saved_entry=c0ffee-6.8.5-301\n", &format!("root=UUID={ROOT_UUID} ro")),
    ] {
        let found = found(ext4(BOOT_UUID, 8, &fedora_boot(environment)));
        assert_eq!(found.kernel_path(), "/vmlinuz-6.8.5-301");
        assert_eq!(found.command_line(), format!("{options} console=ttyS0,115200"));
    }
}

#[test]
fn an_esp_leads_to_the_configuration_on_the_root_filesystem() {
    let esp = fat(
        4,
        &vec![file(
            "/EFI/debian/grub.cfg",
            format!(
                "search.fs_uuid {ROOT_UUID} root hd0,gpt2 \nset prefix=($root)'/usr/share/odd'\nconfigfile $prefix/menu.cfg\n"
            ),
        )],
    );
    let mut tree = debian_tree("1>1");
    let (_, node) = tree.remove(0);
    tree.push(("/usr/share/odd/menu.cfg".to_owned(), node));
    let root = ext4(ROOT_UUID, 8, &tree);
    let found = found(partitioned("gpt", &[(ESP, &esp), (LINUX, &root)]));
    assert_eq!((found.kernel_path(), found.partition().1), ("/boot/vmlinuz-6.1.0-9", 2));
}

#[test]
fn systemd_boot_on_fat() {
    let entry = |version: &str| {
        format!(
            "title Arch {version}\nlinux /arch/{version}/linux\ninitrd /arch/ucode.img\n\
             initrd /arch/{version}/initrd\noptions root=UUID={ROOT_UUID}\noptions rw\n"
        )
    };
    let esp = fat(
        8,
        &vec![
            file("/loader/loader.conf", "timeout 3\ndefault *6.9*\n"),
            file("/loader/entries/arch-6.9.conf", entry("6.9")),
            file("/loader/entries/arch-6.10.conf", entry("6.10")),
            file("/arch/ucode.img", vec![7; 1001]),
            file("/arch/6.9/linux", kernel(69)),
            file("/arch/6.9/initrd", initrd(69)),
            file("/arch/6.10/linux", kernel(10)),
            file("/arch/6.10/initrd", initrd(10)),
        ],
    );
    let root = ext4(ROOT_UUID, 4, &vec![file("/etc/fstab", "")]);
    let found = found(partitioned("gpt", &[(ESP, &esp), (LINUX, &root)]));
    assert_eq!((found.title(), found.filesystem()), ("Arch 6.9", "vfat"));
    assert_eq!(found.command_line(), format!("root=UUID={ROOT_UUID} rw console=ttyS0,115200"));
    let (kernel_bytes, initrd_bytes) = files(&found);
    assert_eq!(kernel_bytes, kernel(69));
    // The second initrd starts at a multiple of four bytes.
    assert_eq!(initrd_bytes[..1001], [7; 1001]);
    assert_eq!(initrd_bytes[1001..1004], [0; 3]);
    assert_eq!(initrd_bytes[1004..], initrd(69));
}

#[test]
fn without_configuration_the_links_then_the_newest_kernel() {
    let mut tree = debian_tree("0");
    tree.remove(0);
    let found = found(ext4(ROOT_UUID, 8, &tree));
    assert_eq!(found.kernel_path(), "/boot/vmlinuz-6.1.0-18");
    assert_eq!(found.command_line(), format!("ro root=UUID={ROOT_UUID} console=ttyS0,115200"));

    tree.retain(|(path, _)| path.starts_with("/boot") || path == "/etc/fstab");
    tree.push(file(
        "/etc/default/grub",
        "GRUB_CMDLINE_LINUX=\"net.ifnames=0\"\nGRUB_CMDLINE_LINUX_DEFAULT='quiet'\n",
    ));
    let found = self::found(ext4(ROOT_UUID, 8, &tree));
    assert_eq!(files(&found), (kernel(18), initrd(18)));
    assert_eq!(
        found.command_line(),
        format!("ro net.ifnames=0 quiet root=UUID={ROOT_UUID} console=ttyS0,115200")
    );
}

#[test]
fn a_kernel_without_initrd_finds_its_root_by_partition() {
    let tree = vec![file("/boot/vmlinuz-6.6", kernel(6)), file("/sbin/init", "")];
    let root = ext4(ROOT_UUID, 8, &tree);
    let found = found(partitioned("gpt", &[(&format!("{LINUX}, uuid={PART_UUID}"), &root)]));
    assert_eq!(found.command_line(), format!("ro root=PARTUUID={PART_UUID} console=ttyS0,115200"));
    assert_eq!(files(&found), (kernel(6), Vec::new()));

    let found = self::found(partitioned("dos", &[("type=83", &root)]));
    assert!(found.command_line().contains("root=PARTUUID=cafe1234-01"), "{found:?}");
    let found = self::found(root);
    assert!(found.command_line().contains("root=/dev/vda "), "{found:?}");
}

#[test]
fn old_and_large_filesystems_can_be_read_too() {
    for options in [
        &["-O", "^64bit,^metadata_csum,^extents", "-b", "1024"][..],
        &["-O", "^has_journal", "-b", "4096", "-I", "512"],
    ] {
        let found = found(ext4_with(ROOT_UUID, 16, &debian_tree("0"), options));
        assert_eq!(files(&found), (kernel(18), initrd(18)), "{options:?}");
    }
}

#[test]
fn an_entry_whose_kernel_is_gone_gives_way_to_the_next() {
    let mut tree = debian_tree("0");
    tree.retain(|(path, _)| path != "/boot/vmlinuz-6.1.0-18" && path != "/vmlinuz");
    let found = found(ext4(ROOT_UUID, 8, &tree));
    assert_eq!(found.kernel_path(), "/boot/vmlinuz-6.1.0-9");
}

#[test]
fn nothing_to_boot_says_what_was_looked_at() {
    let nothing = error(vec![0; 4 << 20]);
    assert_eq!(nothing.code(), "ImageBootFailed.NoPartition");

    let tiny = error(vec![0; 100]);
    assert_eq!(tiny.code(), "ImageBootFailed.NoPartition");

    let empty = error(partitioned("gpt", &[(LINUX, &[0; 1 << 20])]));
    assert_eq!(empty.code(), "ImageBootFailed.NoFilesystem");
    assert!(empty.to_string().contains("GPT partition 1"), "{empty}");

    let kernel_less = error(ext4(ROOT_UUID, 4, &vec![file("/etc/fstab", "")]));
    assert_eq!(kernel_less.code(), "ImageBootFailed.NoKernel");
    assert!(kernel_less.to_string().contains("update-grub"), "{kernel_less}");

    let mut tree = debian_tree("0");
    tree.retain(|(path, _)| !path.contains("vmlinuz"));
    let dangling = error(ext4(ROOT_UUID, 8, &tree));
    assert_eq!(dangling.code(), "ImageBootFailed.NoKernel");
    assert!(dangling.to_string().contains("/boot/vmlinuz-6.1.0-18 named by /boot/grub/grub.cfg"));
}

#[test]
fn filesystems_that_cannot_be_read_are_named() {
    let mut xfs = vec![0; 1 << 20];
    xfs[..4].copy_from_slice(b"XFSB");
    let refused = error(partitioned("gpt", &[(LINUX, &xfs)]));
    assert_eq!(refused.code(), "ImageBootFailed.UnsupportedFilesystem");
    assert!(refused.to_string().contains("XFS in GPT partition 1"), "{refused}");
    assert!(refused.to_string().contains("ext4"), "{refused}");

    let refused = error(ext4_with(ROOT_UUID, 8, &debian_tree("0"), &["-I", "128"]));
    assert_eq!(refused.code(), "ImageBootFailed.UnsupportedFilesystem");
    assert!(refused.to_string().contains("inodes of 128 bytes"), "{refused}");

    let empty = ext4(ROOT_UUID, 4, &vec![file("/lost", "")]);
    let refused = error(partitioned("dos", &[("type=83", &empty), ("type=83", &xfs)]));
    assert_eq!(refused.code(), "ImageBootFailed.UnsupportedFilesystem");
}

#[test]
fn what_is_no_kernel_and_what_is_too_large_is_refused() {
    let boot = |kernel: Vec<u8>| vec![file("/boot/vmlinuz-6.6", kernel), file("/sbin/init", "")];
    let refused = error(ext4(ROOT_UUID, 4, &boot(b"#!/bin/sh\n".to_vec())));
    assert_eq!(refused.code(), "ImageBootFailed.BadKernel");
    assert!(refused.to_string().contains("/boot/vmlinuz-6.6"), "{refused}");

    let disk = ext4(ROOT_UUID, 4, &boot(kernel(1)));
    let limits = Limits { kernel_bytes: 39_999, ..Limits::default() };
    let refused = find(Box::new(disk.clone()), limits).expect_err("too large");
    assert_eq!(refused.code(), "ImageBootFailed.TooLarge");

    let limits = Limits { read_bytes: 20_000, ..Limits::default() };
    let refused = find(Box::new(disk.clone()), limits).expect_err("too many reads");
    assert_eq!(refused.code(), "ImageBootFailed.TooLarge");

    let limits = Limits { time: std::time::Duration::ZERO, ..Limits::default() };
    let refused = find(Box::new(disk), limits).expect_err("no time");
    assert_eq!(refused.code(), "ImageBootFailed.Timeout");

    let mut tree = debian_tree("0");
    tree.retain(|(path, _)| !path.contains("initrd"));
    let refused = error(ext4(ROOT_UUID, 8, &tree));
    assert_eq!(refused.code(), "ImageBootFailed.NoInitrd");
    assert!(refused.to_string().contains("update-initramfs"), "{refused}");
}

#[test]
fn links_that_lead_nowhere_do_not_hang() {
    let tree = vec![
        link("/vmlinuz", "vmlinuz"),
        link("/initrd.img", "../../../../etc/shadow"),
        link("/boot/vmlinuz", "/boot/a"),
        link("/boot/a", "/boot/vmlinuz"),
        file("/etc/fstab", ""),
    ];
    assert_eq!(error(ext4(ROOT_UUID, 4, &tree)).code(), "ImageBootFailed.NoKernel");
}
