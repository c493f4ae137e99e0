//! Information of proxies in front of the server about clients: from the header of the PROXY
//! protocol, before the first byte of a connection, and from the fields of a request.
//! [`ProxyTrust`](crate::config::ProxyTrust) names the trusted peers.

use super::Connection;
use super::proxy_fault::{self, Fault};
use crate::config::Underscores;
use crate::http1::{Refusal, RequestHead};
use crate::machine::Cx;
use crate::peer::Peer;
use crate::proxy::{ProxyHeader, ProxyProtocol, parse_proxy};

impl Connection {
    /// Whether the buffered bytes have to be such a header. It is expected once, and not on a
    /// connection that has begun without one.
    pub(super) fn awaits_proxy_header(&self, cx: &Cx<'_>) -> bool {
        cx.limits.proxies.proxy_protocol != ProxyProtocol::Off
            && self.proxied.is_none()
            && self.usage.requests == 0
            && !self.reader.buffer.is_empty()
    }

    /// Processes the header, or refuses bytes that are none or come from an untrusted peer. Returns
    /// whether requests may follow.
    pub(super) fn take_proxy_header(&mut self, cx: &Cx<'_>) -> bool {
        let front = &cx.limits.proxies;
        let parsed = match front.may_proxy(self.origin.peer) {
            true => parse_proxy(self.reader.buffer.filled(), front.proxy_protocol)
                .map_err(|_| Refusal::BadProxyHeader),
            false => Err(Refusal::ForeignProxy),
        };
        match parsed {
            Ok(Some(ProxyHeader { len, client, .. })) => {
                self.reader.consume(len);
                let client = client.map_or(self.origin.peer, Peer::Inet);
                self.proxied = Some(client);
                cx.entry.name_client(client);
                return true;
            }
            Ok(None) => drop(self.wait_for_head()),
            Err(refusal) => {
                proxy_fault::log(self.origin.peer, Fault::Refused(refusal), cx.now);
                self.refuse(refusal, cx);
            }
        }
        false
    }

    /// Sets the client of the request whose head is complete, in the first `len` bytes of the
    /// buffer, and drops or refuses fields that must not reach the application.
    pub(super) fn vet(&self, head: &mut RequestHead, len: usize, cx: &Cx<'_>) -> Result<(), Refusal> {
        let (front, bytes, peer) =
            (&cx.limits.proxies, &self.reader.buffer.filled()[..len], self.info().peer);
        head.client = peer.into();
        if head.is_forwarded && front.forwarded.has(peer) {
            match head.trust_forwarding(bytes, &front.forwarded) {
                Ok(true) => {}
                Ok(false) => proxy_fault::log(peer, Fault::Unclear, cx.now),
                Err(refusal) => {
                    proxy_fault::log(peer, Fault::Refused(refusal), cx.now);
                    return Err(refusal);
                }
            }
        }
        // Most heads have no underscore anywhere.
        if front.underscores != Underscores::Keep && memchr::memchr(b'_', bytes).is_some() {
            if front.underscores == Underscores::Refuse && head.has_underscores(bytes) {
                return Err(Refusal::Underscore);
            }
            head.drop_underscores(bytes);
        }
        Ok(())
    }
}
