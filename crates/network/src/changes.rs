//! What a reconciliation changed, and whether that was asked for.

use crate::{Error, Problem, Repair, Report, ResourceKind};

/// What was changed in one VPC, or on the host.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    done: Vec<Repair>,
}

impl Changes {
    pub(crate) fn add(&mut self, resource: &str, what: impl Into<String>) {
        self.done.push(Repair { resource: resource.to_owned(), what: what.into() });
    }

    pub(crate) fn add_all(&mut self, resource: &str, what: Vec<String>) {
        for what in what {
            self.add(resource, what);
        }
    }
}

impl Report {
    /// With `settled`, all was as desired before, and the same is desired still: who changed it was
    /// not us.
    pub(crate) fn take(&mut self, changes: Changes, settled: bool) {
        self.changes += changes.done.len();
        if settled {
            self.repairs.extend(changes.done);
        }
    }

    /// Adds what others have to say.
    pub(crate) fn extend(&mut self, others: impl IntoIterator<Item = Self>) {
        for other in others {
            self.problems.extend(other.problems);
            self.changes += other.changes;
            self.repairs.extend(other.repairs);
            self.removals_done &= other.removals_done;
        }
    }

    pub(crate) fn problem(&mut self, kind: ResourceKind, id: &str, error: &Error) {
        self.problems.push(Problem { kind, id: id.to_owned(), message: error.to_string() });
    }
}
