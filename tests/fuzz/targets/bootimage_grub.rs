//! A GRUB configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    bootimage::fuzz::grub_configuration(bytes);
});
