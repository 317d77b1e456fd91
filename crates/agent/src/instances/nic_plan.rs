//! Network interfaces of a running guest: what must be asked of its VMM so that they are as the spec
//! wants them. Pure; asked again until the VMM's own list says it is so.

use super::plug::{ASK_AGAIN_MS, SLOW_MS};
use api::{host::EniSpec, vmm::AttachedNic};

/// One request to the VMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicAsk {
    /// Plug the interface in.
    Attach {
        /// Which ENI.
        eni_id: String,
    },
    /// Ask the guest to let the interface go.
    Detach {
        /// Which ENI.
        eni_id: String,
    },
    /// Go on with the tap there is now.
    SwitchTaps {
        /// Which ENI.
        eni_id: String,
    },
}

impl NicAsk {
    /// The ENI it is about.
    pub fn eni_id(&self) -> &str {
        match self {
            Self::Attach { eni_id } | Self::Detach { eni_id } | Self::SwitchTaps { eni_id } => {
                eni_id
            }
        }
    }
}

/// What to ask. `wanted`: the instance's ENIs; `has`: those of the VMM; `tap_epoch`: of the tap an
/// ENI has now, 0 for none; `asked_ms`: when the guest was last asked for an ENI. The primary one
/// comes and goes with the instance.
pub fn plan(
    now_ms: u64,
    wanted: &[EniSpec],
    has: &[AttachedNic],
    tap_epoch: impl Fn(&str) -> u64,
    asked_ms: impl Fn(&str) -> Option<u64>,
) -> Vec<NicAsk> {
    let mut asks = Vec::new();
    for nic in has {
        let eni_id = nic.eni_id.clone();
        if !wanted.iter().any(|eni| eni.eni_id == eni_id) {
            let due = asked_ms(&eni_id).is_none_or(|t| now_ms >= t.saturating_add(ASK_AGAIN_MS));
            if due || !nic.detaching {
                asks.push(NicAsk::Detach { eni_id });
            }
            continue;
        }
        // Wanted again while it leaves: it comes back when it is out.
        let epoch = tap_epoch(&eni_id);
        if !nic.detaching && epoch != 0 && epoch != nic.tap_epoch {
            asks.push(NicAsk::SwitchTaps { eni_id });
        }
    }
    for eni in wanted.iter().filter(|eni| !eni.primary) {
        if !has.iter().any(|nic| nic.eni_id == eni.eni_id) {
            asks.push(NicAsk::Attach { eni_id: eni.eni_id.clone() });
        }
    }
    asks
}

/// What people are told of a guest that keeps an interface.
pub fn slow_guest(now_ms: u64, nic: &AttachedNic) -> Option<(String, String)> {
    let since = nic.detach_asked_unix_ms;
    (nic.detaching && since > 0 && now_ms >= since.saturating_add(SLOW_MS)).then(|| {
        let message = format!(
            "the guest was asked {} s ago to let {} go and has not done so; it passes nothing any \
             more: see that the guest's kernel has PCI hot-plug, or stop the instance",
            now_ms.saturating_sub(since) / 10_000 * 10,
            nic.eni_id
        );
        ("DetachNotAnswered".to_owned(), message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eni(id: &str, primary: bool) -> EniSpec {
        EniSpec { eni_id: id.to_owned(), primary, ..EniSpec::default() }
    }

    fn nic(id: &str, tap_epoch: u64) -> AttachedNic {
        AttachedNic { eni_id: id.to_owned(), tap_epoch, ..AttachedNic::default() }
    }

    fn never(_: &str) -> Option<u64> {
        None
    }

    #[test]
    fn interfaces_come_and_go_and_what_is_as_wanted_is_left_alone() {
        let id = |id: &str| id.to_owned();
        let wanted = [eni("eni-0", true), eni("eni-1", false)];
        let epoch = |_: &str| 5;
        assert_eq!(plan(0, &wanted, &[nic("eni-0", 5), nic("eni-1", 5)], epoch, never), []);
        assert_eq!(
            plan(0, &wanted, &[nic("eni-0", 5), nic("eni-2", 5)], epoch, never),
            [NicAsk::Detach { eni_id: id("eni-2") }, NicAsk::Attach { eni_id: id("eni-1") }]
        );
        // Nobody plugs a primary interface in: the next start has it.
        assert_eq!(plan(0, &wanted, &[nic("eni-1", 5)], epoch, never), []);
    }

    #[test]
    fn a_tap_that_was_made_anew_is_given_to_the_vmm() {
        let wanted = [eni("eni-0", true)];
        let has = [nic("eni-0", 5)];
        let eni_id = "eni-0".to_owned();
        assert_eq!(plan(0, &wanted, &has, |_| 6, never), [NicAsk::SwitchTaps { eni_id }]);
        assert_eq!(plan(0, &wanted, &has, |_| 0, never), [], "there is none yet");
    }

    #[test]
    fn a_guest_is_asked_again_after_a_while_and_told_of() {
        let mut leaving = nic("eni-1", 5);
        (leaving.detaching, leaving.detach_asked_unix_ms) = (true, 1_000);
        let ask = |now, asked| plan(now, &[], &[leaving.clone()], |_| 5, |_| asked).len();
        assert_eq!(ask(2_000, Some(1_000)), 0);
        assert_eq!(ask(1_000 + ASK_AGAIN_MS, Some(1_000)), 1);
        assert_eq!(ask(2_000, None), 1, "an agent that has just started");
        assert_eq!(slow_guest(1_000 + SLOW_MS - 1, &leaving), None);
        let (code, message) = slow_guest(1_000 + SLOW_MS, &leaving).unwrap();
        assert!(code == "DetachNotAnswered" && message.contains("eni-1"), "{message}");
        // Wanted again: it must be out before it can come back, and gets no tap meanwhile.
        assert_eq!(plan(2_000, &[eni("eni-1", false)], &[leaving], |_| 9, never), []);
    }
}
