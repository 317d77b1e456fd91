//! A whole disk: partition table, filesystem, boot entries.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    bootimage::fuzz::disk(bytes);
});
