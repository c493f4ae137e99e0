//! The exchange of a connection as an application sees it: a borrowed view, at the time of one step
//! or call.

use bytes::Bytes;
use http::HeaderMap;

use super::{Connection, Receiving, Sending};
use crate::exchange::{Abort, Answer, BodyRead, BodyState, Exchange, ExchangeState, RespondError, Upgrade};
use crate::http1::{BodyLen, ResponseHead};
use crate::machine::{CloseReason, Cx};
use crate::peer::ConnectionInfo;

/// The current exchange of an HTTP/1 connection. See [`Connection::exchange`].
#[derive(Debug)]
pub struct Http1Exchange<'a> {
    connection: &'a mut Connection,
    cx: &'a Cx<'a>,
}

impl Connection {
    /// The current exchange, at the time of `cx`.
    #[inline]
    pub fn exchange<'a>(&'a mut self, cx: &'a Cx<'a>) -> Http1Exchange<'a> {
        Http1Exchange { connection: self, cx }
    }
}

impl Exchange for Http1Exchange<'_> {
    fn info(&self) -> ConnectionInfo {
        self.connection.info()
    }

    #[inline]
    fn state(&self) -> ExchangeState {
        let (Connection { reader, writer, exchange, state, .. }, cx) = (&*self.connection, self.cx);
        let body = match (exchange.body.fault, state.receiving()) {
            (Some(fault), _) => BodyState::Failed(fault),
            (None, Receiving::Body) => BodyState::Coming(exchange.body.decoder.remaining()),
            (None, _) => BodyState::Ended,
        };
        let has_peer_ended = reader.is_peer_end_known();
        ExchangeState {
            now: cx.now,
            answer: match (state.is_open(), state.sending()) {
                (false, _) => Answer::Over,
                (true, Sending::Awaiting) => Answer::Awaited,
                (true, Sending::Body | Sending::Quiet) => Answer::Begun,
            },
            body,
            unsent: writer.unsent(),
            sends_content: exchange.response.sends_content(),
            sends_trailers: exchange.request.takes_trailers(),
            upgrade: match (exchange.is_upgraded, exchange.request.offers_upgrade) {
                (true, _) => Upgrade::Done,
                (false, true) => Upgrade::Offered,
                (false, false) => Upgrade::None,
            },
            has_peer_ended: has_peer_ended || state.is_ended(),
            // The limit is about requests: in an upgraded protocol each side may end alone.
            cancels_on_end: cx.limits.cancel_on_half_close && !exchange.is_upgraded,
            is_draining: cx.drain.is_some(),
            due: self.connection.due(),
            is_overdue: exchange.overdue.is_some(),
        }
    }

    #[inline]
    fn read_body(&mut self, buffer: &mut [u8]) -> BodyRead {
        self.connection.read_body(buffer, self.cx)
    }

    fn trailers(&mut self) -> HeaderMap {
        self.connection.take_trailers()
    }

    #[inline]
    fn discard_body(&mut self) {
        self.connection.discard_body();
    }

    fn interim(&mut self, head: &ResponseHead) -> Result<(), RespondError> {
        self.connection.interim(head, self.cx)
    }

    #[inline]
    fn respond(&mut self, head: &ResponseHead, len: BodyLen) -> Result<(), RespondError> {
        self.connection.respond(head, len, self.cx)
    }

    fn upgrade(&mut self, head: &ResponseHead) -> Result<(), RespondError> {
        self.connection.upgrade(head, self.cx)
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<usize, RespondError> {
        self.connection.write(bytes, self.cx.now)
    }

    #[inline]
    fn write_shared(&mut self, bytes: Bytes) -> Result<(), RespondError> {
        self.connection.write_shared(bytes, self.cx.now)
    }

    #[inline]
    fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), RespondError> {
        self.connection.end_response(trailers, self.cx.now)
    }

    fn abort(&mut self, why: Abort) {
        match why {
            Abort::Refused(refusal) => self.connection.refuse(refusal, self.cx),
            Abort::Peer => self.connection.abort(CloseReason::PeerAborted),
            Abort::Transport => self.connection.end(CloseReason::TransportFailed),
            Abort::Application => self.connection.abort(CloseReason::ApplicationFailed),
            Abort::Overdue => self.connection.time_out(self.cx),
        }
    }
}
