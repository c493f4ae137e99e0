//! A connection that receives commands directly, valid in its state or not, without a session.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use remuda_core::config::HIGH_WATER;
use remuda_core::conn::{Buffered, Connection, Event};
use remuda_core::exchange::{Abort, Answer as Answered, BodyRead, Exchange};
use remuda_core::http1::{BodyLen, Refusal, RequestHead};
use remuda_core::machine::{CloseReason, Cx, IoSlices, Machine, Step, Wire};
use remuda_core::time::Time;

use super::app::{Application, trailers};
use super::moved;
use super::script::{Answer, Command};

pub(crate) struct Direct {
    pub(crate) connection: Connection,
    app: Arc<Application>,
    /// The request in flight: its number among all, and its head.
    exchange: Option<(usize, Box<RequestHead>)>,
    calls: usize,
}

impl Direct {
    pub(crate) fn new(connection: Connection, app: Arc<Application>) -> Self {
        Self { connection, app, exchange: None, calls: 0 }
    }

    /// Gives a command, whether it is valid in this state or not. Returns whether more can be given
    /// in this step.
    fn give(&mut self, command: Command, cx: &Cx<'_>) -> bool {
        let Self { connection, app, calls, .. } = self;
        // Without a request, commands count for the previous one, and must have no effect.
        let call = calls.saturating_sub(1);
        let in_turn = self.exchange.is_some();
        match command {
            Command::Read(size) => {
                let mut buffer = vec![0; size.clamp(1, 1 << 16)];
                match connection.exchange(cx).read_body(&mut buffer) {
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
                let awaited = connection.exchange(cx).state().answer == Answered::Awaited;
                let result = connection.exchange(cx).respond(&answer.head(call), len);
                assert!(awaited || result.is_err(), "{result:?} and no request awaits a response");
            }
            Command::Upgrade(answer) => {
                if connection.exchange(cx).upgrade(&answer.head(call)).is_ok() {
                    assert!(in_turn, "an upgrade without a request");
                    app.note(call, |call| call.upgraded = Some(Vec::new()));
                }
            }
            Command::Write(size) => {
                let content = if calls == &0 { Vec::new() } else { app.content(call, size) };
                if let Ok(n) = connection.exchange(cx).write(&content) {
                    assert!(in_turn && n <= content.len(), "content without a request");
                    app.note_written(call, n);
                }
            }
            Command::WriteShared(size) => {
                let content = if calls == &0 { Vec::new() } else { app.content(call, size) };
                let len = content.len();
                if connection.exchange(cx).write_shared(Bytes::from(content)).is_ok() {
                    assert!(in_turn, "content without a request");
                    app.note_written(call, len);
                }
            }
            Command::Interim(answer) => {
                let awaited = connection.exchange(cx).state().answer == Answered::Awaited;
                let result = connection.exchange(cx).interim(&answer.head(call));
                assert!(awaited || result.is_err(), "{result:?} and no request awaits a response");
            }
            Command::Finish => self.finish(&HeaderMap::new(), cx),
            Command::FinishWith => self.finish(&trailers(), cx),
            Command::Fail => connection.exchange(cx).abort(Abort::Application),
            Command::Discard => connection.exchange(cx).discard_body(),
            Command::Refuse(which) => {
                let refusals =
                    [Refusal::BadField, Refusal::BodyTooLarge, Refusal::BodyTimeout, Refusal::BadChunked];
                let refusal = refusals[usize::from(which) % refusals.len()];
                connection.exchange(cx).abort(Abort::Refused(refusal));
            }
            Command::Abort => connection.exchange(cx).abort(Abort::Peer),
            Command::End => connection.end(CloseReason::TransportFailed),
            Command::Handoff => {
                if let Some(record) = connection.hand_off(cx.now) {
                    assert!(!in_turn, "a hand-off within a request");
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
        let finished = self.connection.exchange(cx).finish(Some(trailers));
        if finished.and_then(|()| self.connection.finish(cx.now)).is_ok() {
            let (_, head) = self.exchange.take().expect("only a request can be answered");
            self.connection.reuse(head);
        }
    }

    /// Completes a request once there are no more commands.
    fn conclude(&mut self, cx: &Cx<'_>) {
        if self.connection.exchange(cx).state().answer == Answered::Awaited {
            self.connection.exchange(cx).discard_body();
            self.give(Command::Send(Answer::USUAL), cx);
            self.give(Command::WriteShared(10), cx);
        }
        self.finish(&HeaderMap::new(), cx);
        if self.exchange.is_some() {
            self.connection.exchange(cx).abort(Abort::Application);
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
                // Shared pieces are queued without a copy, so the writer first checks for room, and
                // waits if there is none.
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
                None => self.connection.wait(deadline, cx),
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
