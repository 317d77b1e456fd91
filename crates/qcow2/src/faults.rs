//! Faults of the host, as tests order them: with the feature `faults` every call on a layer's file asks
//! first. Without it, as in anything shipped, there is nothing of this.

/// A call on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Makes durable.
    Sync,
    /// Gives space back.
    Punch,
    /// Changes the length.
    SetLen,
}

#[cfg(feature = "faults")]
mod hook {
    use super::Call;
    use std::io;
    use std::sync::{Arc, PoisonError, RwLock};

    /// What becomes of a call.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Verdict {
        /// It is made.
        Proceed,
        /// It fails with this errno, whether it was made or not.
        Fail(i32),
        /// Only so many of its bytes are transferred.
        Short(usize),
    }

    type Judge = Arc<dyn Fn(Call) -> Verdict + Send + Sync>;

    static JUDGE: RwLock<Option<Judge>> = RwLock::new(None);

    /// From now on every call of this process is put to `judge`.
    pub fn judge(judge: Option<Judge>) {
        *JUDGE.write().unwrap_or_else(PoisonError::into_inner) = judge;
    }

    fn verdict(call: Call) -> Verdict {
        let judge = JUDGE.read().unwrap_or_else(PoisonError::into_inner).clone();
        judge.map_or(Verdict::Proceed, |judge| judge(call))
    }

    pub(crate) fn ask(call: Call) -> io::Result<()> {
        match verdict(call) {
            Verdict::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
            Verdict::Proceed | Verdict::Short(_) => Ok(()),
        }
    }

    /// What a transfer's result is turned into.
    pub(crate) fn result(call: Call, result: i64) -> i64 {
        match verdict(call) {
            Verdict::Fail(errno) => -i64::from(errno),
            Verdict::Short(bytes) if result > 0 && call != Call::Sync => {
                result.min(bytes.max(1) as i64)
            }
            Verdict::Proceed | Verdict::Short(_) => result,
        }
    }
}

#[cfg(not(feature = "faults"))]
mod hook {
    use super::Call;
    use std::io;

    #[inline(always)]
    pub(crate) fn ask(_call: Call) -> io::Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn result(_call: Call, result: i64) -> i64 {
        result
    }
}

#[cfg(feature = "faults")]
pub use hook::{Verdict, judge};
pub(crate) use hook::{ask, result};
