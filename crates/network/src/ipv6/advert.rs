//! Router advertisements, RFC 4861.

const ROUTER_ADVERTISEMENT: u8 = 134;
pub(super) const ROUTER_SOLICITATION: u8 = 133;
/// Addresses and more are to be had by DHCPv6.
const MANAGED_AND_OTHER: u8 = 0xc0;
const HOP_LIMIT: u8 = 64;
/// The longest there may be: a guest keeps its router while the agent is away.
const LIFETIME_SECONDS: u16 = 9000;
const OPTION_SOURCE_MAC: u8 = 1;
const OPTION_MTU: u8 = 5;

/// The ICMPv6 message; the kernel fills in the checksum.
pub(super) fn advertisement(mac: [u8; 6], mtu: u16) -> Vec<u8> {
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, MANAGED_AND_OTHER];
    message.extend(LIFETIME_SECONDS.to_be_bytes());
    // Reachable time and retransmission timer: the guest's own.
    message.extend([0; 8]);
    message.extend([OPTION_SOURCE_MAC, 1]);
    message.extend(mac);
    message.extend([OPTION_MTU, 1, 0, 0]);
    message.extend(u32::from(mtu).to_be_bytes());
    message
}
