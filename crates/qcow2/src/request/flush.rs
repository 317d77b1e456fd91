//! Flush: data and refcounts, sync, then the tables, sync.

use smallvec::smallvec;

use super::transfer::Transfer;
use super::{Job, Phase, Step};
use crate::error::Error;
use crate::image::{Chain, Kind};
use crate::metadata::Flush;

/// Which sync is under way.
#[derive(Debug)]
pub(super) enum FlushState {
    /// A raw file's only one.
    Raw,
    /// Data and refcounts.
    Data(Flush),
    /// L2 and L1 tables.
    Tables(Flush),
}

impl Job {
    pub(super) fn flush(&mut self, chain: &Chain) -> Result<Step, Error> {
        if chain.is_read_only() {
            return Ok(Step::Done(Ok(())));
        }
        self.phase = Phase::Flushing(match &chain.top().kind {
            Kind::Raw => FlushState::Raw,
            Kind::Qcow2 { .. } => FlushState::Data(chain.metadata(0)?.flush_begin()?),
        });
        Ok(Step::Transfer(smallvec![Transfer::sync()]))
    }

    pub(super) fn flush_on(
        &mut self,
        chain: &Chain,
        state: FlushState,
        result: Result<(), Error>,
    ) -> Result<Step, Error> {
        let (mut flush, tables_written) = match state {
            FlushState::Raw => return result.map(|()| Step::Done(Ok(()))),
            FlushState::Data(flush) => (flush, false),
            FlushState::Tables(flush) => (flush, true),
        };
        let mut metadata = chain.metadata(0)?;
        if result.is_err() {
            metadata.mark_sync_failed();
        }
        let written = match result {
            Ok(()) if !tables_written => metadata.flush_tables(&flush),
            other => other,
        };
        if let Err(error) = written {
            metadata.flush_abort(&mut flush);
            return Err(error);
        }
        if tables_written || flush.is_empty() {
            metadata.flush_end(&mut flush)?;
            return Ok(Step::Done(Ok(())));
        }
        self.phase = Phase::Flushing(FlushState::Tables(flush));
        Ok(Step::Transfer(smallvec![Transfer::sync()]))
    }
}
