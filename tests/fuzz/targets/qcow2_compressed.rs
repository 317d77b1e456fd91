//! A compressed cluster.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    qcow2::fuzz::compressed_cluster(bytes);
});
