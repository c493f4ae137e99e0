//! Logs faults of proxies in front. The balancer that causes one may only report that the server is
//! down.
//!
//! Each worker logs a peer once a minute, in bounded memory. Faults that are not logged are
//! counted, and the next line has the count.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::http1::Refusal;
use crate::peer::Peer;
use crate::time::Time;

/// The kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// A connection or a request is refused.
    Refused(Refusal),
    /// The value of a forwarding field cannot be parsed.
    Unclear,
}

/// How long a peer is not logged again for the same fault.
const PERIOD: Duration = Duration::from_secs(60);

/// How many peers are remembered. Faults of others are counted until one of these is forgotten.
const PEERS: usize = 64;

static RECENT: Mutex<Recent> = Mutex::new(Recent { named: Vec::new(), unnamed: 0 });

/// Logs a fault of `peer`, unless the same was logged within the last minute.
#[cold]
pub(super) fn log(peer: Peer, fault: Fault, now: Time) {
    let host = match peer {
        Peer::Inet(addr) => Some(addr.ip().to_canonical()),
        Peer::Unix => None,
    };
    let Some(others) = RECENT.lock().unwrap_or_else(PoisonError::into_inner).note((host, fault), now) else {
        return;
    };
    match fault {
        Fault::Refused(refusal @ (Refusal::BadProxyHeader | Refusal::ForeignProxy)) => tracing::warn!(
            %peer, others,
            "connection refused: {refusal} (proxy-protocol is on; logged once a minute for each peer)"
        ),
        Fault::Refused(refusal) => {
            tracing::warn!(%peer, others, "request refused: {refusal} (logged once a minute for each peer)");
        }
        Fault::Unclear => tracing::warn!(
            %peer, others,
            "forwarding field of a proxy not understood, and not used (logged once a minute for each peer)"
        ),
    }
}

/// Recently logged faults, and the number of faults that were not logged.
#[derive(Debug)]
struct Recent {
    named: Vec<((Option<IpAddr>, Fault), Time)>,
    unnamed: u64,
}

impl Recent {
    /// If the fault is to be logged, how many were not logged since the last one that was.
    fn note(&mut self, what: (Option<IpAddr>, Fault), now: Time) -> Option<u64> {
        self.named.retain(|(_, at)| now < *at + PERIOD);
        if self.named.len() == PEERS || self.named.iter().any(|(named, _)| *named == what) {
            self.unnamed += 1;
            return None;
        }
        self.named.push((what, now));
        Some(std::mem::take(&mut self.unnamed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_nanos(1_000_000_000);
    const MISSING: Fault = Fault::Refused(Refusal::BadProxyHeader);

    fn host(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, n]))
    }

    #[test]
    fn a_peer_is_named_once_a_minute_for_each_fault() {
        let mut recent = Recent { named: Vec::new(), unnamed: 0 };
        assert_eq!(recent.note((host(1), MISSING), START), Some(0));
        assert_eq!(recent.note((host(1), MISSING), START + PERIOD / 2), None);
        assert_eq!(recent.note((host(1), Fault::Unclear), START + PERIOD / 2), Some(1));
        assert_eq!(recent.note((host(2), MISSING), START + PERIOD / 2), Some(0));
        assert_eq!(recent.note((None, MISSING), START + PERIOD / 2), Some(0), "a unix socket");
        assert_eq!(
            recent.note((host(1), MISSING), START + PERIOD),
            Some(0),
            "the minute counts from the log line"
        );
    }

    #[test]
    fn many_peers_take_no_more_memory_and_are_counted() {
        let mut recent = Recent { named: Vec::new(), unnamed: 0 };
        let named = (0..=255).filter(|n| recent.note((host(*n), MISSING), START).is_some()).count();
        assert_eq!((named, recent.named.len()), (PEERS, PEERS));
        let others = 256 - PEERS as u64;
        assert_eq!(recent.note((host(255), MISSING), START + PERIOD), Some(others));
        assert_eq!(recent.named.len(), 1);
    }
}
