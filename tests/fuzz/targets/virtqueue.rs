//! A virtqueue in hostile guest memory, handled as each of the devices would.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use vmm::memory::GuestMemory;

thread_local! {
    static MEMORY: LazyCell<Option<GuestMemory>> = LazyCell::new(vmm::virtio::fuzz::memory);
}

fuzz_target!(|bytes: &[u8]| {
    MEMORY.with(|memory| {
        if let Some(memory) = &**memory {
            vmm::virtio::fuzz::run(memory, bytes);
        }
    });
});
