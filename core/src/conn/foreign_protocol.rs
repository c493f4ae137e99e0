//! Peers that use another protocol. They are refused like any malformed request. This module only
//! logs the protocol that they seem to use, because it is usually a configuration error that can be
//! corrected.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::peer::Peer;

/// A protocol, and whether it was logged: once by each worker, because some clients try it all day.
struct ForeignProtocol {
    opening: &'static [u8],
    speaks: &'static str,
    was_named: AtomicBool,
}

static FOREIGN_PROTOCOLS: [ForeignProtocol; 2] = [
    // A handshake record of any version (RFC 8446 §5.1).
    ForeignProtocol { opening: b"\x16\x03", speaks: "TLS", was_named: AtomicBool::new(false) },
    // RFC 9113 §3.4.
    ForeignProtocol { opening: b"PRI * HTTP/2.0\r\n", speaks: "HTTP/2", was_named: AtomicBool::new(false) },
];

/// Logs the protocol of a peer whose first bytes were refused, if it is a known one.
#[cold]
pub(super) fn detect(bytes: &[u8], peer: Peer) {
    let known = FOREIGN_PROTOCOLS.iter().find(|protocol| bytes.starts_with(protocol.opening));
    if let Some(ForeignProtocol { speaks, was_named, .. }) = known
        && !was_named.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(
            %peer,
            "client refused: it seems to speak {speaks}, this server speaks HTTP/1.1 only (further clients are not logged)"
        );
    }
}
