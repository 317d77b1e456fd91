//! What the process gives up before the first guest instruction.
//!
//! The order matters: each step takes away what an earlier one needs. All of it happens while
//! there is one thread, which every later thread inherits it from.

mod landlock;
mod privileges;
mod root;
pub mod seccomp;

pub use privileges::raise_open_files;

use api::vmm::Jail;
use std::io;

/// A step the host refused. The machine must not start without it.
#[derive(Debug, thiserror::Error)]
#[error("jail: {step}: {source}")]
pub struct JailError {
    /// Which step.
    pub step: String,
    /// Why.
    pub source: io::Error,
}

fn failed<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> JailError {
    let step = step.into();
    move |error| JailError { step, source: error.into() }
}

/// Closes the jail around the process. What is open stays open, and `to_come` more files may be.
///
/// # Errors
/// [`JailError`] names the step the host refused.
pub fn close(jail: &Jail, to_come: u64) -> Result<(), JailError> {
    // While /proc can still be seen.
    let open = privileges::open_files();
    if jail.new_namespaces {
        root::unshare()?;
    }
    if !jail.chroot.is_empty() {
        root::change(&jail.chroot, jail.new_namespaces)?;
    }
    privileges::limit(jail, open, to_come)?;
    privileges::drop_to(jail.uid, jail.gid)?;
    if jail.landlock {
        landlock::restrict()?;
    }
    Ok(())
}
