use super::*;
use proptest::prelude::*;
use std::io::{Seek as _, Write as _};

const MIB: u64 = 1 << 20;
const SETUP_SECTORS: usize = 1;
const CODE: &[u8] = &[0xf4; 1024];

/// A kernel image with a header as the boot protocol wants it, and 1 KiB of code.
pub(super) fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 512 * (SETUP_SECTORS + 1)];
    image[0x1f1] = SETUP_SECTORS as u8;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    image[0x211] = 1;
    image[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    image[0x236..0x238].copy_from_slice(&1u16.to_le_bytes());
    image[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    image[0x258..0x260].copy_from_slice(&(16 * MIB).to_le_bytes());
    image[0x260..0x264].copy_from_slice(&(16 * MIB as u32).to_le_bytes());
    image.extend_from_slice(CODE);
    image
}

/// An ELF file with one loaded segment at 1 MiB and, if asked for, a PVH note.
fn elf(with_note: bool) -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    for (value, size) in [
        (2u64, 2),
        (62, 2),
        (1, 4),
        (0x10_0000, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (2, 2),
        (0, 2),
        (0, 2),
        (0, 2),
    ] {
        image.extend_from_slice(&value.to_le_bytes()[..size]);
    }
    let note_at = 64 + 2 * 56;
    let note = [4u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x10_0040];
    let mut segment = |kind: u32, at: u64, address: u64, len: u64| {
        image.extend_from_slice(&kind.to_le_bytes());
        image.extend_from_slice(&5u32.to_le_bytes());
        for value in [at, address, address, len, len, 4] {
            image.extend_from_slice(&value.to_le_bytes());
        }
    };
    segment(1, note_at + 20, 0x10_0000, CODE.len() as u64);
    segment(if with_note { 4 } else { 6 }, note_at, 0, 20);
    for word in note {
        image.extend_from_slice(&word.to_le_bytes());
    }
    image.extend_from_slice(CODE);
    image
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

pub(super) fn payload(kernel: &[u8], initrd: Option<&[u8]>, cmdline: &str) -> Payload {
    Payload { kernel: file(kernel), initrd: initrd.map(file), cmdline: cmdline.to_owned() }
}

pub(super) fn boot(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    cmdline: &str,
) -> Result<(GuestMemory, Entry), BootError> {
    let memory = crate::memory::allocate(64 * MIB).unwrap();
    let entry = load(&mut payload(kernel, initrd, cmdline), &memory, 64 * MIB, 0xe_0000)?;
    Ok((memory, entry))
}

pub(super) fn read<const N: usize>(memory: &GuestMemory, address: u64) -> [u8; N] {
    let mut bytes = [0; N];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

#[test]
fn a_bzimage_is_entered_at_its_64_bit_entry_with_its_initrd_and_words() {
    let (memory, entry) = boot(&bzimage(), Some(b"initrd"), "console=ttyS0").unwrap();
    assert_eq!(entry, Entry::Linux64 { rip: 0x10_0200 });
    assert_eq!(read(&memory, 0x10_0000), [0xf4; 1024]);
    assert_eq!(&read::<14>(&memory, layout::CMDLINE), b"console=ttyS0\0");
    let initrd = u32::from_le_bytes(read(&memory, layout::ZERO_PAGE + 0x218));
    assert_eq!(&read::<6>(&memory, initrd.into()), b"initrd");
    assert_eq!(u32::from_le_bytes(read(&memory, layout::ZERO_PAGE + 0x21c)), 6);
}

#[test]
fn an_elf_with_a_pvh_note_is_entered_there_and_one_without_is_refused() {
    let (memory, entry) = boot(&elf(true), Some(b"initrd"), "quiet").unwrap();
    assert_eq!(entry, Entry::Pvh { eip: 0x10_0040 });
    assert_eq!(read(&memory, 0x10_0000), [0xf4; 1024]);
    let info = |at| u64::from_le_bytes(read(&memory, layout::PVH_INFO + at));
    assert_eq!(info(0) as u32, 0x336e_c578);
    assert_eq!((info(0x18), info(0x20)), (layout::CMDLINE, 0xe_0000));
    let initrd = u64::from_le_bytes(read(&memory, info(0x10)));
    assert_eq!(&read::<6>(&memory, initrd), b"initrd");
    assert!(matches!(boot(&elf(false), None, ""), Err(BootError::NoPvhNote)));
}

#[test]
fn what_is_no_kernel_is_refused_with_the_reason() {
    for bytes in [&b""[..], b"MZ", &[0; 4096], &bzimage()[..0x250], &elf(true)[..100]] {
        let error = boot(bytes, None, "").unwrap_err();
        assert!(matches!(error, BootError::UnknownFormat { .. }), "{error}");
    }
    let mut old = bzimage();
    old[0x236] = 0;
    assert!(matches!(boot(&old, None, ""), Err(BootError::Not64Bit)));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut big = bzimage();
    big[0x260..0x264].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(boot(&big, None, ""), Err(BootError::KernelTooBig { .. })));
    let mut long = bzimage();
    long.resize(64 * MIB as usize, 0);
    assert!(matches!(boot(&long, None, ""), Err(BootError::KernelTooBig { .. })));
    // The segment's bytes in the file, then those in memory, which are more by the zeroes.
    for at in [64 + 32, 64 + 40] {
        let mut big = elf(true);
        big[at..at + 8].copy_from_slice(&(63 * MIB + 1).to_le_bytes());
        let error = boot(&big, None, "").unwrap_err();
        assert!(matches!(error, BootError::KernelTooBig { address: MIB, .. }), "{error}");
        big[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(boot(&big, None, ""), Err(BootError::KernelTooBig { .. })));
    }
    let initrd = vec![0; 40 * MIB as usize];
    assert!(matches!(boot(&bzimage(), Some(&initrd), ""), Err(BootError::InitrdTooBig { .. })));
    assert!(matches!(boot(&bzimage(), Some(b""), ""), Err(BootError::InitrdEmpty)));
    let mut terse = bzimage();
    terse[0x238..0x23c].copy_from_slice(&10u32.to_le_bytes());
    assert!(matches!(
        boot(&terse, None, "more than ten"),
        Err(BootError::CmdlineTooLong { max: 10, .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn spoiled_kernels_never_panic(
        is_elf: bool,
        spoils in prop::collection::vec((0usize..0x280, any::<u8>()), 1..8),
        cut in 0usize..2048,
    ) {
        let mut image = if is_elf { elf(true) } else { bzimage() };
        for (at, byte) in spoils {
            if let Some(place) = image.get_mut(at) {
                *place = byte;
            }
        }
        image.truncate(image.len().saturating_sub(cut % 512));
        let _ = boot(&image, Some(b"initrd"), "quiet");
    }
}
