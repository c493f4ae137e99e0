//! The simulated application, blocking and async. The path of a request describes its handler.
//!
//! `/ID/WHAT/MS/SIZE`: request `ID` (16 for each connection) is answered after `MS` milliseconds
//! with `SIZE` bytes that follow from `ID`.

use std::cmp::min;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use remuda_core::app::{
    App, AppError, AsyncHandler, Body, BodyReader, DrainSignal, Handler, Incoming, Responder,
};
use remuda_core::http1::{Head, ResponseHead};
use remuda_core::time::Time;

use super::monitor::{Monitor, Nap, Timers, ms};

/// The behaviour of a handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// Reads all of the body, then answers at once or late.
    Answer,
    /// Answers without having read the body.
    Ignore,
    /// Sends the response in pieces, with pauses.
    Stream,
    /// Sends pieces until the worker drains.
    Events,
    /// Never comes back.
    Never,
    /// Panics instead of answering.
    Panic,
    /// Panics within the response.
    Break,
}

const NAMES: [(What, &str); 7] = [
    (What::Answer, "answer"),
    (What::Ignore, "ignore"),
    (What::Stream, "stream"),
    (What::Events, "events"),
    (What::Never, "never"),
    (What::Panic, "panic"),
    (What::Break, "break"),
];

/// A request, as its path spells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) id: u32,
    pub(super) what: What,
    pub(super) ms: u64,
    pub(super) size: usize,
}

impl Task {
    pub(super) fn path(&self) -> String {
        let (_, name) = NAMES.iter().find(|(what, _)| *what == self.what).expect("all have a name");
        format!("/{}/{name}/{}/{}", self.id, self.ms, self.size)
    }

    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.split('/').skip(1);
        Some(Self {
            id: parts.next()?.parse().ok()?,
            what: parts.next().and_then(|name| NAMES.iter().find(|(_, of)| *of == name))?.0,
            ms: parts.next()?.parse().ok()?,
            size: parts.next()?.parse().ok()?,
        })
    }
}

/// Bytes `at..at + len` of the body of a request (odd) or of its response (even).
pub(super) fn content(id: u32, odd: bool, at: usize, len: usize) -> Vec<u8> {
    let salt = id.wrapping_mul(2).wrapping_add(u32::from(odd)).wrapping_mul(0x9E37_79B9);
    (at..at + len).map(|n| (salt.wrapping_add(n as u32).wrapping_mul(0x85EB_CA6B) >> 24) as u8).collect()
}

/// Bytes of a piece of a response.
pub(super) const PIECE: usize = 4 * 1024;

#[derive(Clone)]
pub(super) struct Simulated {
    pub(super) monitor: Arc<Monitor>,
    pub(super) timers: Arc<Timers>,
    pub(super) drain: DrainSignal,
    /// Blocking handlers that answer at once run on the loop.
    pub(super) inline: bool,
}

impl Simulated {
    pub(super) fn app(self, blocking: bool) -> App {
        if blocking { App::blocking(self) } else { App::future(self) }
    }

    /// The body so far is that of the request.
    fn check(&self, task: Task, at: usize, piece: &[u8]) {
        let kept = piece == content(task.id, true, at, piece.len());
        self.monitor
            .hold("bytes", kept, || format!("request {}: its body arrived changed at byte {at}", task.id));
    }

    fn answered(&self, task: Task) {
        let drain = self.drain.drain();
        self.monitor.trace(|| format!("app      {} answers, draining: {}", task.id, drain.is_some()));
        self.monitor.answer(task.id, drain);
    }

    fn work(&self, task: Task) -> Work<'_> {
        self.monitor.trace(|| format!("app      {} {:?}", task.id, task.what));
        self.monitor.begin_work(task.id / 16);
        Work { monitor: &self.monitor, conn: task.id / 16 }
    }

    fn nap_for(&self, millis: u64, or_drain: bool) {
        if millis > 0 {
            self.monitor.nap(Nap { until: self.monitor.now() + ms(millis), or_drain });
        }
    }
}

/// While this lives, a handler is at work.
struct Work<'a> {
    monitor: &'a Monitor,
    conn: u32,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.monitor.end_work(self.conn);
    }
}

impl Handler for Simulated {
    fn call(&self, head: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
        let task = Task::parse(head.path()).ok_or_else(|| AppError::msg("no task"))?;
        let _work = self.work(task);
        if !matches!(task.what, What::Ignore | What::Panic) {
            let (mut at, mut buffer) = (0, [0; 1000]);
            loop {
                let n = body.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                self.check(task, at, &buffer[..n]);
                at += n;
            }
        }
        let head = ResponseHead::new(200);
        match task.what {
            What::Answer | What::Ignore => {
                self.nap_for(task.ms, false);
                out.send(head, content(task.id, false, 0, task.size))?;
                self.answered(task);
            }
            What::Never => {
                self.monitor.nap(Nap { until: Time::MAX, or_drain: false });
                out.send(head, "")?;
            }
            What::Panic => std::panic::resume_unwind(Box::new("as asked")),
            What::Stream | What::Events | What::Break => {
                let mut out = out.stream(head)?;
                self.answered(task);
                let mut at = 0;
                loop {
                    let over = match task.what {
                        What::Events => self.drain.is_set(),
                        _ => at >= task.size,
                    };
                    if over {
                        break;
                    }
                    let len = if task.what == What::Events { 40 } else { min(PIECE, task.size - at) };
                    self.nap_for(task.ms, task.what == What::Events);
                    out.write_all(&content(task.id, false, at, len))?;
                    out.flush()?;
                    at += len;
                }
                if task.what == What::Break {
                    std::panic::resume_unwind(Box::new("as asked"));
                }
            }
        }
        Ok(())
    }

    fn is_short(&self, head: &Head<'_>) -> bool {
        let short =
            |task: Task| task.ms == 0 && matches!(task.what, What::Answer | What::Ignore | What::Panic);
        self.inline && Task::parse(head.path()).is_some_and(short)
    }
}

#[async_trait::async_trait(?Send)]
impl AsyncHandler for Simulated {
    async fn call(&self, request: Request<Incoming>) -> Response<Body> {
        let info = request.body().info();
        self.monitor.hold("d14_handlers_know", info.drain.is_set() == self.drain.is_set(), || {
            "two signals of one worker disagree".to_owned()
        });
        let Some(task) = Task::parse(request.uri().path()) else { return status(404) };
        let work = self.work(task);
        let mut body = request.into_body();
        if !matches!(task.what, What::Ignore | What::Panic) {
            let mut at = 0;
            loop {
                match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                    Some(Ok(frame)) => {
                        let piece = frame.into_data().unwrap_or_default();
                        self.check(task, at, &piece);
                        at += piece.len();
                    }
                    Some(Err(_)) => return status(400),
                    None => break,
                }
            }
        }
        match task.what {
            What::Answer | What::Ignore => {
                let piece = content(task.id, false, 0, task.size);
                self.sleep(task.ms).await;
                self.answered(task);
                Response::new(piece.into())
            }
            What::Never => std::future::pending().await,
            What::Panic => std::panic::resume_unwind(Box::new("as asked")),
            What::Stream | What::Events | What::Break => {
                self.answered(task);
                drop(work);
                self.monitor.begin_work(task.id / 16);
                let drained = self.drain.clone();
                let pieces = Pieces {
                    app: self.clone(),
                    task,
                    at: 0,
                    timer: None,
                    drained: Box::pin(async move { drained.drained().await }),
                };
                Response::new(Body::new(pieces))
            }
        }
    }
}

impl Simulated {
    async fn sleep(&self, millis: u64) {
        if millis > 0 {
            let mut sleep = Sleep { timers: &self.timers, key: None };
            let until = self.monitor.now() + ms(millis);
            poll_fn(|cx| sleep.poll(until, self.monitor.now(), cx)).await;
        }
    }
}

fn status(status: u16) -> Response<Body> {
    Response::builder().status(status).body(Body::empty()).expect("it is valid")
}

struct Sleep<'a> {
    timers: &'a Timers,
    key: Option<(Time, u64)>,
}

impl Sleep<'_> {
    fn poll(&mut self, until: Time, now: Time, cx: &Context<'_>) -> Poll<()> {
        self.key.take().into_iter().for_each(|key| self.timers.forget(key));
        if now >= until {
            return Poll::Ready(());
        }
        self.key = Some(self.timers.set(until, cx.waker()));
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        self.key.into_iter().for_each(|key| self.timers.forget(key));
    }
}

/// The body of a streamed response.
struct Pieces {
    app: Simulated,
    task: Task,
    at: usize,
    timer: Option<(Time, u64)>,
    drained: Pin<Box<dyn Future<Output = ()>>>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = AppError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AppError>>> {
        let this = &mut *self;
        let (task, events) = (this.task, this.task.what == What::Events);
        if events && this.drained.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        if !events && this.at >= task.size {
            if task.what == What::Break {
                std::panic::resume_unwind(Box::new("as asked"));
            }
            return Poll::Ready(None);
        }
        if task.ms > 0 {
            let now = this.app.monitor.now();
            let until = this.timer.map_or_else(|| now + ms(task.ms), |(at, _)| at);
            this.timer.take().into_iter().for_each(|key| this.app.timers.forget(key));
            if now < until {
                this.timer = Some(this.app.timers.set(until, cx.waker()));
                return Poll::Pending;
            }
        }
        let len = if events { 40 } else { min(PIECE, task.size - this.at) };
        let piece = content(task.id, false, this.at, len);
        this.at += len;
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.timer.into_iter().for_each(|key| self.app.timers.forget(key));
        self.app.monitor.end_work(self.task.id / 16);
    }
}
