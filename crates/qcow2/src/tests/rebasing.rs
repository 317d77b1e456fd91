//! Another backing file name in a header, with the power lost in between.

use std::path::Path;
use std::process::Command;

use super::medium::{Event, apply, image_bytes};
use crate::format::header::Header;
use crate::format::rebase::rebase;
use crate::{Backing, CreateOptions, Format};

fn qemu_img(args: &[&str]) {
    let done = Command::new("qemu-img").args(args).stdout(std::process::Stdio::null()).status();
    assert!(done.expect("qemu-img is needed by this test: install qemu-utils").success());
}

/// A name of this length.
fn name(seed: char, len: usize) -> String {
    std::iter::repeat_n(seed, len).collect()
}

fn by_qemu(dir: &Path, backing: Option<&str>) -> Vec<u8> {
    let path = dir.join("image");
    let path = path.to_str().unwrap();
    let _ = std::fs::remove_file(path);
    let mut args = vec!["create", "-q", "-u", "-f", "qcow2"];
    if let Some(backing) = backing {
        args.extend(["-F", "qcow2", "-b", backing]);
    }
    args.extend([path, "64M"]);
    qemu_img(&args);
    std::fs::read(path).unwrap()
}

fn ours(cluster_bits: u32, backing: Option<&str>) -> Vec<u8> {
    let backing = backing.map(|name| Backing { name: name.into(), format: Format::Qcow2 });
    let options =
        CreateOptions { virtual_size: 64 << 20, cluster_bits, backing, ..Default::default() };
    image_bytes(&options)
}

#[test]
fn the_header_names_the_old_file_or_the_new_one_at_every_moment() {
    let dir = tempfile::tempdir().unwrap();
    let long = name('l', 900);
    let mut images = vec![ours(9, Some("a")), ours(9, None), ours(16, Some(&long))];
    for backing in [None, Some("x"), Some(&long[..400]), Some(&long)] {
        images.push(by_qemu(dir.path(), backing));
    }
    for image in images {
        let before = Header::decode(&image[..image.len().min(65_536)]).unwrap();
        let first = &image[..1usize << before.geometry.cluster_bits];
        let (short, middle, long) = (name('s', 3), name('m', 300), name('n', 1000));
        for new in [None, Some((&short, "raw")), Some((&middle, "qcow2")), Some((&long, "raw"))] {
            let new = new.map(|(name, format)| (name.as_str(), Some(format)));
            let writes = match rebase(first, new) {
                Ok(writes) => writes,
                Err(error) => {
                    assert!(first.len() == 512 && new.unwrap().0.len() > 200, "{error}");
                    continue;
                }
            };
            let mut bytes = image.clone();
            for (at, (offset, data)) in writes.iter().enumerate() {
                // A write within a sector is done or not; of the others any part may be done.
                for torn in (1..data.len()).step_by(7) {
                    let atomic = offset / 512 == (offset + data.len() as u64 - 1) / 512;
                    if atomic {
                        break;
                    }
                    let mut bytes = bytes.clone();
                    let bytes_done = data[..torn].to_vec();
                    apply(&mut bytes, &Event::Write { offset: *offset, bytes: bytes_done });
                    let header = Header::decode(&bytes[..first.len().min(65_536)]).unwrap();
                    assert_eq!(header.backing_name, before.backing_name);
                }
                apply(&mut bytes, &Event::Write { offset: *offset, bytes: data.clone() });
                let header = Header::decode(&bytes[..first.len().min(65_536)]).unwrap();
                let expected = if at + 1 == writes.len() {
                    new.map(|(name, _)| name.to_owned())
                } else {
                    before.backing_name.clone()
                };
                assert_eq!(header.backing_name, expected);
                assert_eq!((header.size, header.l1_offset), (before.size, before.l1_offset));
            }
            if let (Some((_, format)), Some(_)) = (new, &before.backing_format) {
                let header = Header::decode(&bytes[..first.len().min(65_536)]).unwrap();
                assert_eq!(header.backing_format.as_deref(), format);
            }
            let path = dir.path().join("rebased");
            std::fs::write(&path, &bytes).unwrap();
            let path = path.to_str().unwrap();
            qemu_img(&["info", "-f", "qcow2", path]);
            if new.is_none() {
                // It would look for the backing file.
                qemu_img(&["check", "-q", "-f", "qcow2", path]);
            }
        }
    }
}
