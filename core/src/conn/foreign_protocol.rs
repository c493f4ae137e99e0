//! Peers that speak another protocol. They are refused like whatever is no request; this only names what they seem to speak,
//! because somebody has configured it so, and can mend it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::handoff::Peer;

/// What a peer may speak instead, and whether it was named: once by each worker, for there are clients that try it all day.
struct Stranger {
    opening: &'static [u8],
    speaks: &'static str,
    was_named: AtomicBool,
}

static STRANGERS: [Stranger; 2] = [
    // A handshake record of any version (RFC 8446 §5.1).
    Stranger { opening: b"\x16\x03", speaks: "TLS", was_named: AtomicBool::new(false) },
    // RFC 9113 §3.4.
    Stranger { opening: b"PRI * HTTP/2.0\r\n", speaks: "HTTP/2", was_named: AtomicBool::new(false) },
];

/// Names what a peer speaks whose first bytes were refused, if it looks like something that is known.
#[cold]
pub(super) fn name(bytes: &[u8], peer: Peer) {
    let known = STRANGERS.iter().find(|stranger| bytes.starts_with(stranger.opening));
    if let Some(Stranger { speaks, was_named, .. }) = known
        && !was_named.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(
            %peer,
            "a client is refused that speaks what looks like {speaks}; only HTTP/1.1 is spoken here (others are not named any more)"
        );
    }
}
