//! A qcow2 file, opened, checked and read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    qcow2::fuzz::image(bytes);
});
