//! After how many requests the guest is told of those that are done.
//!
//! Each time is an interrupt, so better late; but the guest can work on what it is told of, and put up
//! more, while the rest is carried out, so better early.

/// Requests after which it is told.
const AT_ONCE: usize = 16;
/// More, up to so many, while the guest puts up more all the time.
const AT_MOST: usize = 64;
const STEP: usize = 4;
/// Bytes after which it is told however few requests they are: to move them took long.
const BYTES: u64 = 1 << 20;
/// Requests told of together from which on a guest is taken for one that puts up many.
const MANY: usize = 8;

/// What a queue has carried out and not told of.
#[derive(Debug)]
pub struct Telling {
    requests: usize,
    bytes: u64,
    /// Requests after which to tell.
    at: usize,
    /// Whether they were many the last time.
    many: bool,
}

impl Telling {
    /// Of a queue that has done nothing.
    pub fn new() -> Self {
        Self { requests: 0, bytes: 0, at: AT_ONCE, many: false }
    }

    /// A request that moves so many bytes was taken.
    pub fn took(&mut self, bytes: u64) {
        self.requests += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether requests were taken of which the guest was not told.
    pub fn is_behind(&self) -> bool {
        self.requests > 0
    }

    /// Whether it is time, though the guest has put up more.
    pub fn is_due(&mut self) -> bool {
        if self.requests >= self.at {
            self.at = AT_MOST.min(self.at + STEP);
            return true;
        }
        self.bytes >= BYTES
    }

    /// Whether to wait a moment for the next request, after so many such moments.
    pub fn waits(&self, moments: usize) -> bool {
        self.is_behind() && self.many && moments <= AT_ONCE
    }

    /// There are no more requests.
    pub fn ran_dry(&mut self) {
        if self.requests >= AT_ONCE {
            self.at = AT_ONCE.max(self.at / 2);
        }
    }

    /// The guest is told of all.
    pub fn told(&mut self) {
        if self.is_behind() {
            self.many = self.requests >= MANY;
        }
        (self.requests, self.bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests until the guest is told, of one that always has more.
    fn until_due(telling: &mut Telling, bytes: u64) -> usize {
        let mut requests = 0;
        loop {
            telling.took(bytes);
            requests += 1;
            if telling.is_due() {
                telling.told();
                return requests;
            }
        }
    }

    #[test]
    fn a_guest_that_puts_up_more_all_the_time_is_told_of_more_at_once() {
        let mut telling = Telling::new();
        let counts: Vec<_> = (0..20).map(|_| until_due(&mut telling, 4096)).collect();
        assert_eq!(counts[..3], [16, 20, 24]);
        assert_eq!(counts[13..], [64; 7]);
        // Fewer than it was waited for.
        (0..40).for_each(|_| telling.took(4096));
        telling.ran_dry();
        telling.told();
        assert_eq!(until_due(&mut telling, 4096), 32);
        // One that never has many at once does not change it.
        for _ in 0..10 {
            telling.took(4096);
            telling.ran_dry();
            telling.told();
        }
        assert_eq!(until_due(&mut telling, 4096), 36);
    }

    #[test]
    fn of_large_requests_the_guest_is_told_one_by_one() {
        let mut telling = Telling::new();
        assert_eq!(until_due(&mut telling, 1 << 20), 1);
        assert_eq!(until_due(&mut telling, 1 << 18), 4);
        assert_eq!(until_due(&mut telling, 4096), 16, "bytes do not add up beyond a telling");
    }

    #[test]
    fn it_is_waited_only_for_a_guest_that_puts_up_many() {
        let mut telling = Telling::new();
        telling.took(4096);
        assert!(telling.is_behind() && !telling.waits(1));
        telling.told();
        (0..MANY).for_each(|_| telling.took(4096));
        telling.told();
        assert!(!telling.is_behind() && !telling.waits(1), "there is nothing to tell");
        telling.took(4096);
        assert!(telling.waits(1) && !telling.waits(AT_ONCE + 1));
        telling.told();
        // To tell of nothing says nothing of the guest.
        (0..MANY).for_each(|_| telling.took(4096));
        telling.told();
        telling.told();
        telling.took(0);
        assert!(telling.waits(1));
    }
}
