//! Growing a disk.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::{Image, Kind, ThreadWaiter};
use crate::error::Error;
use crate::luks::SECTOR;
use crate::request::Job;
use crate::request::locks::Wake;

impl Image {
    /// Make the disk `new_size` bytes large; the new part reads as zeroes. Durable on return.
    /// Works while queues are in use; a switch of layers under way is waited for.
    ///
    /// # Errors
    /// A size below the present one or beyond what the cluster size allows, a read-only or broken
    /// image, or the host's I/O error; the disk then keeps its size.
    pub fn grow(&self, new_size: u64) -> Result<(), Error> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        let old = self.virtual_size();
        if new_size < old {
            return Err(Error::InvalidArgument(format!(
                "the disk has {old} bytes and cannot shrink to {new_size}"
            )));
        }
        if self.chain().cipher(0).is_some() && !new_size.is_multiple_of(SECTOR) {
            let problem = format!("{new_size} bytes of an encrypted disk are no whole sectors");
            return Err(Error::InvalidArgument(problem));
        }
        if new_size == old {
            return Ok(());
        }
        let chain = self.chain();
        match &chain.top().kind {
            Kind::Raw => {
                chain
                    .file(0)
                    .set_len(new_size)
                    .and_then(|()| chain.file(0).sync())
                    .map_err(|e| Error::io("grow the disk's file", e))?;
            }
            Kind::Qcow2 { geometry, .. } => {
                chain.metadata(0)?.grow_l1(new_size)?;
                // What the new part would show: the tail of the last cluster, and layers below
                // that are longer.
                let below = chain.layers[1..].iter().map(|l| l.size()).max().unwrap_or(0);
                let tail = old.next_multiple_of(geometry.cluster_size());
                let end = tail.max(below).min(new_size);
                if end > old {
                    let waiter = Arc::new(ThreadWaiter::default());
                    let wake: Arc<dyn Wake> = waiter.clone();
                    self.run_job(Job::zeroes_beyond_end(old, end - old, wake), &waiter)?;
                    self.flush()?;
                }
                chain.metadata(0)?.set_size(new_size)?;
            }
        }
        chain.top().set_size(new_size);
        self.size.store(new_size, Ordering::Release);
        Ok(())
    }
}
