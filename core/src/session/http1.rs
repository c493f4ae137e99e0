//! An HTTP/1 connection with its application: one exchange at a time.

use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use send_wrapper::SendWrapper;

use crate::app::streams::{Opening, Streams};
use crate::app::{
    self, ActivityGuard, AsyncCall, BlockingIo, Cut, Doing, Entered, HeldExchange, Inline, Kind,
    LeasedExchange, Placement, Service, answer,
};
use crate::config::HIGH_WATER;
use crate::conn::{Buffered, Connection, Declined, Event, Overdue, sooner};
use crate::http1::RequestHead;
use crate::machine::{CloseReason, Cx, Deadline, IoSlices, Machine, Move, Step, Timer, Wire};
use crate::peer::ConnectionInfo;
use crate::time::Time;

use self::leaving::{Leaving, Response, Story, cut_by};

mod leaving;

/// One connection, and at most one exchange on it.
#[derive(Debug)]
pub struct Http1Session {
    connection: Connection,
    service: Arc<Service>,
    exchange: Exchange,
    /// The number of responses whose exchange is over, sent or not.
    concluded: u32,
    /// The responses that are not sent completely.
    leaving: Leaving,
    /// Its entry among the visible exchanges, while an exchange waits.
    entered: Option<Entered>,
    /// When its last step was taken.
    now: Time,
    storage: app::Storage,
    /// Its first bytes have not shown yet whether they are HTTP/1.
    is_opening: bool,
}

/// The protocol of a connection, by its first bytes.
pub(super) enum Chosen {
    /// HTTP/1, or nothing to decide about any more.
    Http1,
    /// They have not shown it yet.
    Undecided,
    /// The other protocol, whose machine this is.
    Other(Box<dyn Streams>),
}

#[derive(Debug, Default)]
enum Exchange {
    /// No exchange.
    #[default]
    None,
    /// A short handler runs once all of the body has arrived.
    Collecting(Box<RequestHead>),
    /// A handler is leased once all of a small body has arrived.
    Gathering(Box<RequestHead>),
    /// A handler waits for a place where it may block.
    Waiting(Box<RequestHead>),
    /// A blocking handler runs elsewhere. A step in this state means that the lease has expired,
    /// and that the session was taken back from the handler. If the lease cannot expire, no head is
    /// kept.
    Leased(Option<Box<RequestHead>>),
    /// A future answers. It is bound to its thread. The session stays there as well: only
    /// [`Step::Move`] moves a session, and no step asks for that while a future runs.
    Polling(SendWrapper<AsyncCall>, Box<RequestHead>),
}

impl Http1Session {
    pub(super) fn new(mut connection: Connection, service: Arc<Service>) -> Self {
        if let Some(observer) = &service.observer {
            connection.keep_account(observer.wants_fields());
        }
        Self {
            concluded: connection.served(),
            is_opening: service.app.other.is_some() && connection.served() == 0,
            leaving: Leaving::default(),
            entered: None,
            now: Time::ZERO,
            connection,
            service,
            exchange: Exchange::None,
            storage: app::Storage::default(),
        }
    }

    /// Whether the protocol of the connection has not been [chosen](Self::choose).
    #[inline]
    pub(super) fn is_opening(&self) -> bool {
        self.is_opening
    }

    /// Chooses the protocol of the connection, if its first bytes show it.
    pub(super) fn choose(&mut self, cx: &Cx<'_>) -> Chosen {
        let chosen = self.chosen(cx);
        self.is_opening = matches!(chosen, Chosen::Undecided);
        chosen
    }

    fn chosen(&mut self, cx: &Cx<'_>) -> Chosen {
        let Self { connection, service, .. } = self;
        let Some(other) = &service.app.other else { return Chosen::Http1 };
        let (origin, is_complete) = (connection.origin(), connection.has_read_all());
        let Some(first) = connection.first_bytes(cx) else {
            return if connection.is_ending() { Chosen::Http1 } else { Chosen::Undecided };
        };
        match other.is_begun_by(&origin, first) {
            Some(true) => {
                let received = Bytes::copy_from_slice(first);
                let (info, has_ended) = (connection.info(), connection.has_peer_ended());
                let opening =
                    Opening::new(service.clone(), info, connection.accepted_at(), received, has_ended);
                Chosen::Other(other.machine(opening))
            }
            None if !is_complete => Chosen::Undecided,
            Some(false) | None => Chosen::Http1,
        }
    }

    /// The step while the protocol is undecided: as that of a connection whose first head is
    /// incomplete.
    pub(super) fn wait_for_choice(&mut self, cx: &Cx<'_>) -> Step {
        self.now = cx.now;
        match self.connection.ending(cx) {
            Some(step) => self.end_with(step),
            None => self.wait(cx),
        }
    }

    /// See [`Protocol::lease`](super::Protocol::lease).
    pub(super) fn lease(&mut self, cx: &Cx<'_>) -> Option<LeasedCall> {
        let Exchange::Waiting(head) = mem::take(&mut self.exchange) else { return None };
        self.leave_board();
        let activity = self.service.note_placed(head.summary(), cx.now);
        if self.service.app.is_future() {
            self.now = cx.now;
            self.begin_future(head, cx);
            return Some(LeasedCall::Async(activity));
        }
        self.connection.call(cx);
        let due = self.connection.due();
        // Only a lease that may expire needs a head, to conclude the exchange without the handler.
        self.exchange = Exchange::Leased(due.is_some().then(|| head.clone()));
        let (info, service) = (self.connection.info(), self.service.clone());
        Some(LeasedCall::Blocking(BlockingCall { head, info, service, due, _activity: activity }))
    }

    /// See [`Protocol::settle`](super::Protocol::settle).
    pub(super) fn settle(&mut self, call: BlockingCall, now: Time) {
        if let Exchange::Leased(_) = mem::take(&mut self.exchange) {
            self.now = now;
            self.finish(now);
            self.conclude(call.head);
        }
    }

    /// See [`Protocol::is_async`](super::Protocol::is_async).
    pub(super) fn is_async(&self) -> bool {
        matches!(self.exchange, Exchange::Waiting(_)) && self.service.app.is_future()
    }

    /// See [`Protocol::is_leased`](super::Protocol::is_leased).
    pub(super) fn is_leased(&self) -> bool {
        matches!(self.exchange, Exchange::Polling(..))
    }

    /// See [`Protocol::note_queued`](super::Protocol::note_queued).
    pub(super) fn note_queued(&mut self) {
        if let Exchange::Waiting(head) = &self.exchange {
            self.entered = enter(&self.service, &self.connection, self.entered, head, Doing::Queued);
        }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// See [`Protocol::end`](super::Protocol::end).
    pub(super) fn end(&mut self, reason: CloseReason) {
        self.connection.end(reason);
        self.storage.end_client();
        self.close();
    }

    #[inline]
    fn answer(&mut self, head: &RequestHead, io: &mut (impl BlockingIo + ?Sized)) {
        if let Kind::Blocking(handler) = &self.service.app.kind {
            let info = self.connection.info();
            let mut lease = HeldExchange::new(&mut self.connection, io);
            self.now = answer(&**handler, head, info, &self.service, &mut lease).unwrap_or(self.now);
            self.finish(self.now);
        }
    }

    /// Ends the exchange with the bytes that its handler has queued.
    #[inline]
    fn finish(&mut self, now: Time) {
        // The connection remembers an error in the response.
        let _ = self.connection.finish(now);
    }

    /// Polls an async handler, noted as `busy` meanwhile.
    fn poll(
        &mut self,
        mut exchange: SendWrapper<AsyncCall>,
        busy: Option<ActivityGuard>,
        head: Box<RequestHead>,
        cx: &Cx<'_>,
    ) {
        let is_over =
            exchange.poll(&mut self.connection.exchange(cx), &self.service, &mut self.storage, cx.waker);
        drop(busy);
        if is_over {
            self.now = cx.present();
            drop(exchange);
            self.finish(cx.now);
            self.conclude(head);
        } else {
            self.exchange = Exchange::Polling(exchange, head);
        }
    }

    /// Concludes the exchange of `head`. It is counted, and reported to an observer, once its
    /// response is sent or can no longer be sent.
    fn conclude(&mut self, head: Box<RequestHead>) {
        if let Some(how) = self.connection.overdue() {
            self.service.counters.timed_out.increment();
            self.complain(&head, how);
        }
        if let Some(error) = self.connection.length_error() {
            tracing::error!(request = ?head.view(), "{error}; closing the connection");
        }
        let served = self.connection.served();
        // A complete response lacks nothing, even if its handler runs on and fails.
        let is_finished = served != self.concluded || self.connection.is_complete();
        let kind = match (is_finished, self.connection.declined()) {
            (true, _) => Some(leaving::Kind::Finished),
            (false, declined) => declined.map(|declined| match declined {
                Declined::Refused => leaving::Kind::Rejected,
                Declined::Late => leaving::Kind::Late,
                Declined::Stopped => leaving::Kind::Stopped,
            }),
        };
        self.concluded = served;
        match kind.filter(|_| !self.connection.has_lost()) {
            Some(kind) => self.leave(kind, head),
            None => self.abort(head),
        }
    }

    /// The response to `head` is queued completely.
    fn leave(&mut self, kind: leaving::Kind, head: Box<RequestHead>) {
        if kind == leaving::Kind::Stopped {
            self.service.counters.aborted(true);
            self.note_cut(&head);
        } else if self.connection.unsent() >= HIGH_WATER {
            self.entered = enter(&self.service, &self.connection, self.entered, &head, Doing::Sending);
        } else {
            self.leave_board();
        }
        let response = Response {
            end: self.connection.sent() + self.connection.unsent() as u64,
            since: self.connection.asked_at(),
            queued: self.now,
            status: self.connection.status(),
            kind,
            story: self.story(head),
        };
        if let Some(oldest) = self.leaving.push(response)
            && let (Some(story), Some(observer)) = (oldest.story.take(), &self.service.observer)
        {
            story.tell(&**observer, oldest.queued, None);
        }
        self.note_left(self.now);
    }

    /// No response to `head` will come, or no more of it.
    #[cold]
    fn abort(&mut self, head: Box<RequestHead>) {
        let cut = cut_by(self.connection.end_reason());
        self.service.counters.aborted(cut == Cut::Drain);
        match cut {
            Cut::Drain => self.note_cut(&head),
            _ => self.leave_board(),
        }
        if let (Some(story), Some(observer)) = (self.story(head), &self.service.observer) {
            story.tell(&**observer, self.now, Some(cut));
        }
    }

    /// The report about the request of `head`, if there is an observer. Otherwise the storage of
    /// the head is reused.
    #[inline]
    fn story(&mut self, head: Box<RequestHead>) -> Option<Box<Story>> {
        if self.service.observer.is_none() {
            self.connection.reuse(head);
            return None;
        }
        let (connection, closes) = (self.connection.info(), self.connection.is_ending());
        let record = self.connection.take_record()?;
        Some(Box::new(Story { head, record, connection, closes }))
    }

    /// Counts and reports the responses that were sent by `now`.
    #[inline]
    fn note_left(&mut self, now: Time) {
        if self.leaving.has_left(self.connection.sent()) {
            self.note_first_left(now);
        }
    }

    fn note_first_left(&mut self, now: Time) {
        while self.leaving.has_left(self.connection.sent()) {
            let Some(response) = self.leaving.pop() else { return };
            response.count(&self.service.counters, now);
            if let Some(story) = response.story {
                self.tell(*story, response.queued.max(now), None);
            }
        }
    }

    /// The connection has ended: the current exchange is over, and unsent responses will not be
    /// sent.
    #[cold]
    fn close(&mut self) {
        let refused = self.connection.take_refused();
        if let Some(head) = mem::take(&mut self.exchange).into_head() {
            self.conclude(head);
        }
        self.note_left(self.now);
        let cut = cut_by(self.connection.end_reason());
        while let Some(mut response) = self.leaving.pop() {
            response.count_lost(&self.service.counters, cut);
            if let Some(mut story) = response.story.take() {
                let unsent = response.end - self.connection.sent();
                story.record.sent = story.record.sent.saturating_sub(unsent);
                self.tell(*story, self.now, Some(cut));
            }
            if cut == Cut::Drain
                && let Some(entered) = self.entered.take()
            {
                self.service.in_flight.is_doing(entered, Doing::Cut);
            }
        }
        if let Some(head) = refused {
            self.tell_of_refused(head);
        }
        if self.entered.is_some() {
            self.leave_board();
        }
    }

    /// Reports a request that was refused before its head was complete.
    #[cold]
    fn tell_of_refused(&mut self, head: Box<RequestHead>) {
        let cut = self.connection.has_lost().then(|| cut_by(self.connection.end_reason()));
        if let Some(story) = self.story(head) {
            self.tell(*story, self.now, cut);
        }
    }

    /// Reports `story` to the observer. Not inlined, because most servers have no observer.
    #[cold]
    fn tell(&mut self, story: Story, now: Time, cut: Option<Cut>) {
        if let Some(observer) = &self.service.observer {
            story.tell(&**observer, now, cut);
        }
        self.connection.reuse(story.head);
        self.connection.return_record(story.record);
    }

    /// Removes the exchange from the visible ones, since it does not wait any more.
    #[inline]
    fn leave_board(&mut self) {
        if let Some(entered) = self.entered.take() {
            self.service.in_flight.leave(entered);
        }
    }

    /// Records that the drain's deadline has cut the exchange of `head`, which remains visible as
    /// cut.
    #[cold]
    fn note_cut(&mut self, head: &RequestHead) {
        self.service.in_flight.cut(self.entered.take(), head.summary(), self.connection.asked_at());
    }

    /// Records the exchange of a connection that has come to rest, if one waits.
    #[cold]
    fn note_rest(&mut self) {
        let polls_on_loop = self.service.placement == Placement::ByKind;
        let (head, doing) = match &self.exchange {
            Exchange::Collecting(head) | Exchange::Gathering(head) => (head, Doing::Receiving),
            Exchange::Waiting(head) => (head, Doing::Queued),
            Exchange::Polling(_, head) if polls_on_loop && self.connection.awaits_response() => {
                (head, Doing::Waiting)
            }
            Exchange::Polling(_, head) if polls_on_loop => (head, Doing::Responding),
            // Their activity shows what they do.
            Exchange::Polling(..) | Exchange::Leased(_) => return self.leave_board(),
            Exchange::None if !self.leaving.is_empty() => return,
            Exchange::None => return self.leave_board(),
        };
        self.entered = enter(&self.service, &self.connection, self.entered, head, doing);
    }

    /// Logs that the handler of `head` exceeded its timeout. A future is dropped. A thread can only
    /// be freed by replacing its worker.
    #[cold]
    fn complain(&self, head: &RequestHead, how: Overdue) {
        let fate = match how {
            Overdue::Told => "answered with 503",
            Overdue::Cut => "response cut",
            Overdue::Answered => "response was already complete",
        };
        tracing::warn!(request = ?head.view(), "handler exceeded request-timeout: {fate}");
        if !self.service.app.is_future() {
            self.service.overtime.found();
        }
    }

    /// Begins the exchange of a complete head. Runs its handler if that is short and the whole body
    /// has arrived.
    fn take_on(&mut self, head: Box<RequestHead>, cx: &Cx<'_>) {
        self.service.count_request();
        cx.entry.call(self.connection.response_start(), self.connection.is_answerable());
        // The entry of the previous exchange.
        self.leave_board();
        match &self.service.app.kind {
            Kind::Blocking(handler) if handler.is_short(&head.view()) => self.collect(head, cx),
            Kind::Future(_) if self.service.placement == Placement::ByKind => self.begin_future(head, cx),
            _ if self.service.placement == Placement::ByKind
                || self.service.app.streams_body(&head.view()) =>
            {
                self.exchange = Exchange::Waiting(head);
            }
            _ => self.gather(head, cx),
        }
    }

    fn begin_future(&mut self, head: Box<RequestHead>, cx: &Cx<'_>) {
        let Kind::Future(call) = &self.service.app.kind else { return };
        // After the deadline no handler is called (D10).
        if is_over(cx) {
            return self.give_up(head, cx);
        }
        self.connection.call(cx);
        let busy = self.polls(&head, cx);
        let begun = AsyncCall::begin(
            call,
            &head,
            &self.connection.exchange(cx),
            &self.service,
            &mut self.storage,
            cx.waker,
        );
        let exchange = match begun {
            Ok(exchange) => exchange,
            Err(refusal) => {
                self.connection.refuse(refusal, cx);
                return self.conclude(head);
            }
        };
        self.poll(SendWrapper::new(exchange), busy, head, cx);
    }

    /// Answers a client whose handler will not be run, or polled, any more (D10).
    fn give_up(&mut self, head: Box<RequestHead>, cx: &Cx<'_>) {
        self.connection.give_up(cx);
        self.conclude(head);
    }

    /// Records that a future is polled. If handlers run on threads of their own, this is already
    /// recorded.
    fn polls(&self, head: &RequestHead, cx: &Cx<'_>) -> Option<ActivityGuard> {
        if self.service.placement != Placement::ByKind {
            return None;
        }
        let (activities, request) = (&self.service.activities, head.summary());
        match self.entered {
            Some(Entered { number, since, .. }) => activities.on_loop_again(request, cx.now, since, number),
            None => activities.on_loop(request, cx.now),
        }
    }

    fn gather(&mut self, head: Box<RequestHead>, cx: &Cx<'_>) {
        self.exchange = match self.connection.collect_body(cx) {
            Buffered::Partial => Exchange::Gathering(head),
            Buffered::Complete | Buffered::Unbuffered => Exchange::Waiting(head),
        };
    }

    fn collect(&mut self, head: Box<RequestHead>, cx: &Cx<'_>) {
        match self.connection.collect_body(cx) {
            Buffered::Complete => {
                self.leave_board();
                let busy = self.service.activities.on_loop(head.summary(), cx.now);
                self.answer(&head, &mut Inline(*cx));
                drop(busy);
                self.now = cx.present();
                self.conclude(head);
            }
            Buffered::Partial => self.exchange = Exchange::Collecting(head),
            Buffered::Unbuffered => self.exchange = Exchange::Waiting(head),
        }
    }

    /// Applies deadlines. Returns whether anything has changed for the application.
    fn expires(&mut self, cx: &Cx<'_>) -> bool {
        let before = (self.connection.body_fault(), self.connection.is_ending());
        self.connection.handle_time(cx);
        before != (self.connection.body_fault(), self.connection.is_ending())
    }

    /// Returns `step`, which ends the connection or its sending side. The response to a refused
    /// request has been sent by then, so that request is reported.
    fn end_with(&mut self, step: Step) -> Step {
        match step {
            Step::Close(_) => self.close(),
            _ => {
                if let Some(head) = self.connection.take_refused() {
                    self.tell_of_refused(head);
                }
            }
        }
        step
    }

    /// The step when there is nothing else to do: a wait, or the end of the connection.
    fn wait(&mut self, cx: &Cx<'_>) -> Step {
        let leaves = self.connection.leaves_at(cx).map(|at| Deadline { at, why: Timer::Drain });
        if leaves.is_some_and(|leaves| leaves.at <= cx.now) {
            return Step::Move(Move::Handoff);
        }
        let deadline = sooner(self.connection.handle_time(cx), leaves);
        match self.connection.ending(cx) {
            Some(step) => self.end_with(step),
            None => self.connection.wait(deadline, cx),
        }
    }
}

/// A handler whose exchange is leased.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "a handler is one or the other")]
pub enum LeasedCall {
    /// To be [run](BlockingCall::run), and settled.
    Blocking(BlockingCall),
    /// To be polled by steps on this thread for as long as the session [is
    /// leased](super::Protocol::is_leased). Recorded as busy until this is dropped.
    Async(Option<ActivityGuard>),
}

/// The call of a blocking handler.
#[derive(Debug)]
pub struct BlockingCall {
    head: Box<RequestHead>,
    info: ConnectionInfo,
    service: Arc<Service>,
    due: Option<Time>,
    _activity: Option<ActivityGuard>,
}

impl BlockingCall {
    /// When the lease expires. None: it does not.
    pub fn due(&self) -> Option<Time> {
        self.due
    }

    /// Runs the handler on its exchange, and returns the time at its end. None if the lease has
    /// expired.
    pub fn run(&self, exchange: &mut impl LeasedExchange) -> Option<Time> {
        match &self.service.app.kind {
            Kind::Blocking(handler) => answer(&**handler, &self.head, self.info, &self.service, exchange),
            Kind::Future(_) => None,
        }
    }
}

/// A session that is dropped has lost its transport, so its exchange ends.
impl Drop for Http1Session {
    fn drop(&mut self) {
        self.end(CloseReason::TransportFailed);
    }
}

impl Exchange {
    fn into_head(self) -> Option<Box<RequestHead>> {
        match self {
            Self::None => None,
            Self::Leased(head) => head,
            Self::Collecting(head) | Self::Gathering(head) | Self::Waiting(head) | Self::Polling(_, head) => {
                Some(head)
            }
        }
    }
}

impl Machine for Http1Session {
    fn step(&mut self, cx: &Cx<'_>) -> Step {
        self.now = cx.now;
        self.note_left(cx.now);
        for _ in 0..cx.limits.pipeline_budget {
            if let Some(step) = self.connection.ending(cx) {
                return self.end_with(step);
            }
            match mem::take(&mut self.exchange) {
                Exchange::None => match self.connection.poll_event(cx) {
                    Some(Event::Request(head)) => self.take_on(head, cx),
                    None => return self.wait(cx),
                },
                Exchange::Collecting(head) => {
                    // A body that is late counts as complete: no more of it is awaited.
                    self.connection.handle_time(cx);
                    match self.connection.declined() {
                        Some(_) => self.conclude(head),
                        None => self.collect(head, cx),
                    }
                }
                // A handler that has not started by the drain's deadline is not started any more,
                // and its client gets 503 (D10).
                Exchange::Gathering(head) | Exchange::Waiting(head) if is_over(cx) => self.give_up(head, cx),
                Exchange::Gathering(head) => {
                    self.connection.handle_time(cx);
                    self.gather(head, cx);
                }
                // At the drain's deadline, 503 if the response has not begun, else a cut (D10).
                Exchange::Polling(exchange, head) if is_over(cx) => {
                    drop(exchange);
                    self.give_up(head, cx);
                }
                Exchange::Polling(exchange, head) if self.connection.is_cancelled(cx) => {
                    drop(exchange);
                    self.connection.abort(CloseReason::PeerAborted);
                    self.conclude(head);
                }
                Exchange::Polling(exchange, head) => {
                    // The application gets the bytes that a look has found before deadlines are
                    // applied. If a deadline then changes anything for the application, it learns
                    // of that at once.
                    let busy = self.polls(&head, cx);
                    self.poll(exchange, busy, head, cx);
                    if self.is_leased()
                        && self.expires(cx)
                        && let Exchange::Polling(exchange, head) = mem::take(&mut self.exchange)
                    {
                        let busy = self.polls(&head, cx);
                        self.poll(exchange, busy, head, cx);
                    }
                }
                waiting @ Exchange::Waiting(_) => self.exchange = waiting,
                Exchange::Leased(head) => {
                    self.connection.time_out(cx);
                    head.into_iter().for_each(|head| self.conclude(head));
                }
            }
            match self.exchange {
                Exchange::None | Exchange::Leased(_) => {}
                // The next iteration cancels it.
                Exchange::Polling(..) if self.connection.is_cancelled(cx) => {}
                Exchange::Collecting(_) | Exchange::Gathering(_) | Exchange::Polling(..) => {
                    return self.wait(cx);
                }
                // The next iteration answers it.
                Exchange::Waiting(_) if is_over(cx) => {}
                Exchange::Waiting(_) => {
                    let deadline = self.connection.handle_time(cx);
                    return match self.connection.ending(cx) {
                        Some(step) => step,
                        None => match self.connection.wait(deadline, cx) {
                            Step::Wait { .. } => Step::Move(Move::Lease),
                            look => look,
                        },
                    };
                }
            }
        }
        Step::Yield
    }

    fn handle_peer_end(&mut self) {
        self.connection.note_peer_end();
        self.storage.end_client();
    }

    fn rest(&mut self) {
        self.connection.rest();
        if self.entered.is_some() || !matches!(self.exchange, Exchange::None) {
            self.note_rest();
        }
    }
}

impl Wire for Http1Session {
    fn read_buf(&mut self) -> &mut [u8] {
        self.connection.read_buf()
    }

    fn handle_read(&mut self, n: usize, now: Time) {
        self.connection.handle_read(n, now);
    }

    fn handle_eof(&mut self, now: Time) {
        self.connection.handle_eof(now);
        self.storage.end_client();
    }

    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        self.connection.transmit(out);
    }

    fn handle_written(&mut self, n: usize, now: Time) {
        self.connection.handle_written(n, now);
        self.note_left(now);
    }
}

/// Records the state of the exchange of `head`, as one of those that wait.
fn enter(
    service: &Service,
    connection: &Connection,
    entered: Option<Entered>,
    head: &RequestHead,
    doing: Doing,
) -> Option<Entered> {
    match entered {
        Some(same) if same.doing == doing => entered,
        Some(other) => Some(service.in_flight.is_doing(other, doing)),
        None => service.in_flight.enter(head.summary(), connection.asked_at(), doing),
    }
}

/// Whether the drain's deadline has passed. From then on no handler is started and no future
/// polled.
fn is_over(cx: &Cx<'_>) -> bool {
    cx.draining_now().is_some_and(|drain| drain.is_over(cx.now))
}
