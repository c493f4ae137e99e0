//! What whoever stands in front of the server says of its clients: before the first byte of a connection, in the header of the
//! PROXY protocol, and in the fields of a request. Who may say that is a matter of [`Front`](crate::config::Front).

use super::Connection;
use crate::config::Underscores;
use crate::handoff::Peer;
use crate::http1::{Refusal, RequestHead};
use crate::machine::Cx;
use crate::proxy::{ProxyHeader, ProxyProtocol, parse_proxy};

impl Connection {
    /// Whether bytes are here that have to be such a header. It comes once, and not in the middle of a connection that was
    /// begun without.
    pub(super) fn awaits_proxy_header(&self, cx: &Cx<'_>) -> bool {
        cx.limits.front.proxy_protocol != ProxyProtocol::Off
            && self.proxied.is_none()
            && self.requests == 0
            && !self.rx.is_empty()
    }

    /// Takes the header, or refuses what is none or comes from somebody else; whether requests may follow.
    pub(super) fn take_proxy_header(&mut self, cx: &Cx<'_>) -> bool {
        let front = &cx.limits.front;
        let parsed = match front.may_proxy(self.origin.peer) {
            true => parse_proxy(self.rx.filled(), front.proxy_protocol).map_err(|_| Refusal::BadProxyHeader),
            false => Err(Refusal::ForeignProxy),
        };
        match parsed {
            Ok(Some(ProxyHeader { len, client, .. })) => {
                self.rx.consume(len);
                self.proxied = Some(client.map_or(self.origin.peer, Peer::Inet));
                if self.rx.is_empty() {
                    self.head_since = None;
                }
                return true;
            }
            Ok(None) => drop(self.wait_for_head()),
            Err(refusal) => self.refuse(refusal, cx),
        }
        false
    }

    /// Says who has sent the request whose head is complete, in the first `len` bytes that were read, and takes or refuses
    /// what should not reach the application.
    pub(super) fn vet(&self, head: &mut RequestHead, len: usize, cx: &Cx<'_>) -> Result<(), Refusal> {
        let (front, bytes, peer) = (&cx.limits.front, &self.rx.filled()[..len], self.info().peer);
        head.client = peer.into();
        if head.is_forwarded && front.forwarded.has(peer) {
            head.believe(bytes, &front.forwarded)?;
        }
        // Most heads have none anywhere.
        if front.underscores != Underscores::Keep && memchr::memchr(b'_', bytes).is_some() {
            if front.underscores == Underscores::Refuse && head.has_underscores(bytes) {
                return Err(Refusal::Underscore);
            }
            head.drop_underscores(bytes);
        }
        Ok(())
    }
}
