//! A connection that is given commands itself, in turn and out of turn, in the place of a session.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use remuda_core::config::HIGH_WATER;
use remuda_core::conn::{BodyRead, Buffered, Connection, Event};
use remuda_core::http1::{BodyLen, Refusal, RequestHead};
use remuda_core::machine::{CloseReason, Cx, IoSlices, Machine, Step, Wire};
use remuda_core::time::Time;

use super::app::{Application, trailers};
use super::moved;
use super::script::{Answer, Command};

pub(crate) struct Direct {
    pub(crate) connection: Connection,
    app: Arc<Application>,
    /// The request under way: its number among all, and its head.
    exchange: Option<(usize, Box<RequestHead>)>,
    calls: usize,
}

impl Direct {
    pub(crate) fn new(connection: Connection, app: Arc<Application>) -> Self {
        Self { connection, app, exchange: None, calls: 0 }
    }

    /// Gives a command, whatever it is good for now. Whether more can be given in this step.
    fn give(&mut self, command: Command, cx: &Cx<'_>) -> bool {
        let Self { connection, app, calls, .. } = self;
        // Without a request they count for the one before, and must be of no effect.
        let call = calls.saturating_sub(1);
        let in_turn = self.exchange.is_some();
        match command {
            Command::Read(size) => {
                let mut buffer = vec![0; size.clamp(1, 1 << 16)];
                match connection.read_body(&mut buffer, cx) {
                    BodyRead::Data(n) => {
                        assert!(in_turn && n > 0, "a body without a request");
                        app.note_read(call, &buffer[..n]);
                    }
                    BodyRead::End if in_turn => app.note_read(call, &[]),
                    BodyRead::End | BodyRead::NeedInput | BodyRead::Aborted(_) => {}
                }
            }
            Command::Send(answer) | Command::Begin(answer) => {
                let len = answer.len.map_or(BodyLen::Unknown, |len| BodyLen::Exact(len as u64));
                let awaited = connection.awaits_response();
                let result = connection.respond(&answer.head(call), len, cx);
                assert!(awaited || result.is_err(), "{result:?} and nobody has asked");
            }
            Command::Upgrade(answer) => {
                if connection.upgrade(&answer.head(call), cx).is_ok() {
                    assert!(in_turn, "an upgrade without a request");
                    app.note(call, |call| call.upgraded = Some(Vec::new()));
                }
            }
            Command::Write(size) => {
                let content = if calls == &0 { Vec::new() } else { app.content(call, size) };
                if let Ok(n) = connection.write(&content, cx.now) {
                    assert!(in_turn && n <= content.len(), "content without a request");
                    app.note_written(call, n);
                }
            }
            Command::WriteShared(size) => {
                let content = if calls == &0 { Vec::new() } else { app.content(call, size) };
                let len = content.len();
                if connection.write_shared(Bytes::from(content), cx.now).is_ok() {
                    assert!(in_turn, "content without a request");
                    app.note_written(call, len);
                }
            }
            Command::Interim(answer) => {
                let awaited = connection.awaits_response();
                let result = connection.interim(&answer.head(call), cx);
                assert!(awaited || result.is_err(), "{result:?} and nobody has asked");
            }
            Command::Finish => self.finish(&HeaderMap::new(), cx),
            Command::FinishWith => self.finish(&trailers(), cx),
            Command::Fail => connection.abort(CloseReason::ApplicationFailed),
            Command::Discard => connection.discard_body(),
            Command::Refuse(which) => {
                let refusals =
                    [Refusal::BadField, Refusal::BodyTooLarge, Refusal::BodyTimeout, Refusal::BadChunked];
                connection.refuse(refusals[usize::from(which) % refusals.len()], cx);
            }
            Command::Abort => connection.abort(CloseReason::PeerAborted),
            Command::End => connection.end(CloseReason::TransportFailed),
            Command::HandOff => {
                if let Some(record) = connection.hand_off(cx.now) {
                    assert!(!in_turn, "it left within a request");
                    connection.end(CloseReason::HandedOff);
                    self.connection = Connection::resume(moved(&record), cx.now);
                }
            }
            Command::Collect => {
                let collected = connection.collect_body(cx);
                let may_come = in_turn || connection.is_ending();
                assert!(may_come || collected == Buffered::Complete, "{collected:?} without a request");
            }
            Command::GiveUp => connection.give_up(cx),
            Command::Flush => {}
            Command::Wait => return false,
        }
        true
    }

    fn finish(&mut self, trailers: &HeaderMap, cx: &Cx<'_>) {
        if self.connection.finish_with(trailers, cx.now).is_ok() {
            let (_, head) = self.exchange.take().expect("only a request can be answered");
            self.connection.recycle(head);
        }
    }

    /// What is done with a request once there are no more commands.
    fn conclude(&mut self, cx: &Cx<'_>) {
        if self.connection.awaits_response() {
            self.connection.discard_body();
            self.give(Command::Send(Answer::USUAL), cx);
            self.give(Command::WriteShared(10), cx);
        }
        self.finish(&HeaderMap::new(), cx);
        if self.exchange.is_some() {
            self.connection.abort(CloseReason::ApplicationFailed);
        }
    }
}

impl Machine for Direct {
    fn step(&mut self, cx: &Cx<'_>) -> Step {
        for _ in 0..16 {
            if let Some(step) = self.connection.ending(cx) {
                return step;
            }
            let ended = self.connection.is_ending();
            let waits = match self.app.next() {
                // Who queues pieces as they are looks first whether there is room, and waits if there is none.
                Some(Command::WriteShared(_)) if self.connection.unsent() >= HIGH_WATER => true,
                Some(command) => !self.give(command, cx),
                None if self.exchange.is_some() && !ended => {
                    self.conclude(cx);
                    false
                }
                None => self.exchange.is_some(),
            };
            if !waits && self.exchange.is_some() {
                continue;
            }
            if self.exchange.is_none()
                && let Some(Event::Request(head)) = self.connection.poll_event(cx)
            {
                let view = head.view();
                self.app.begin(view.method(), view.target());
                self.exchange = Some((self.calls, head));
                self.calls += 1;
                continue;
            }
            let deadline = self.connection.handle_time(cx);
            return match self.connection.ending(cx) {
                Some(step) => step,
                None => Step::Wait { interest: self.connection.interest(), deadline },
            };
        }
        Step::Yield
    }

    fn rest(&mut self) {
        self.connection.rest();
    }
}

impl Wire for Direct {
    fn read_buf(&mut self) -> &mut [u8] {
        self.connection.read_buf()
    }

    fn handle_read(&mut self, n: usize, now: Time) {
        self.connection.handle_read(n, now);
    }

    fn handle_eof(&mut self, now: Time) {
        self.connection.handle_eof(now);
    }

    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        self.connection.transmit(out);
    }

    fn handle_written(&mut self, n: usize, now: Time) {
        self.connection.handle_written(n, now);
    }
}
