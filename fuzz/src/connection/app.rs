//! The application: it acts as the script says, and records what it has seen.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use remuda_core::app::{AppError, AsyncHandler, Body, BodyReader, Incoming, Responder};
use remuda_core::http1::{Head, ResponseHead};

use super::script::{Answer, Command};
use super::world::BYTES_MAX;

/// The state that handlers share.
#[derive(Debug)]
pub(crate) struct Application(Mutex<State>);

#[derive(Debug)]
struct State {
    commands: std::vec::IntoIter<Command>,
    /// In the order of the requests.
    calls: Vec<Call>,
    waiting: Option<Waker>,
    /// How many times an event that it waits for has happened without a wait for it.
    opened: usize,
    open_for_good: bool,
}

/// A request as the application has seen it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
    /// It has seen the end of the body.
    pub(crate) ended: bool,
    /// The bytes it has read since the protocol was changed.
    pub(crate) upgraded: Option<Vec<u8>>,
    /// How many bytes of content it has given to the response.
    pub(crate) written: usize,
}

impl Application {
    pub(crate) fn new(mut commands: Vec<Command>) -> Self {
        // A wait at the end of the script would wait for nothing.
        while let Some(Command::Wait) = commands.last() {
            commands.pop();
        }
        Self(Mutex::new(State {
            commands: commands.into_iter(),
            calls: Vec::new(),
            waiting: None,
            opened: 0,
            open_for_good: false,
        }))
    }

    pub(crate) fn next(&self) -> Option<Command> {
        self.state().commands.next()
    }

    pub(crate) fn has_more(&self) -> bool {
        !self.state().commands.as_slice().is_empty()
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// An event that the application waits for happens.
    pub(crate) fn open(&self) {
        let mut state = self.state();
        state.opened += 1;
        let waiting = state.waiting.take();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// From now on every wait ends at once. Returns whether that is new.
    pub(crate) fn open_for_good(&self) -> bool {
        let is_new = !std::mem::replace(&mut self.state().open_for_good, true);
        self.open();
        is_new
    }

    /// Whether the event of the current wait has happened.
    fn poll_open(&self, waker: &Waker) -> Poll<()> {
        let mut state = self.state();
        if state.open_for_good || state.opened > 0 {
            state.opened = state.opened.saturating_sub(1);
            return Poll::Ready(());
        }
        state.waiting = Some(waker.clone());
        Poll::Pending
    }

    pub(crate) fn begin(&self, method: &str, target: &str) -> usize {
        let mut state = self.state();
        let call = Call { method: method.to_owned(), target: target.to_owned(), ..Call::default() };
        state.calls.push(call);
        state.calls.len() - 1
    }

    pub(crate) fn note(&self, call: usize, what: impl FnOnce(&mut Call)) {
        what(&mut self.state().calls[call]);
    }

    /// The application has read `bytes` of the body, or of the data after a 101. Empty at the end.
    pub(crate) fn note_read(&self, call: usize, bytes: &[u8]) {
        self.note(call, |call| match &mut call.upgraded {
            Some(raw) => raw.extend_from_slice(bytes),
            None => {
                call.body.extend_from_slice(bytes);
                call.ended |= bytes.is_empty();
            }
        });
    }

    /// The next `len` bytes of content of a response.
    pub(crate) fn content(&self, call: usize, len: usize) -> Vec<u8> {
        let from = self.state().calls[call].written;
        let len = if from < BYTES_MAX { len } else { 0 };
        (from..from + len).map(|at| content(call, at)).collect()
    }

    pub(crate) fn note_written(&self, call: usize, len: usize) {
        self.note(call, |call| call.written += len);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }
}

/// Each response has different content, each byte of it.
pub(crate) fn content(call: usize, at: usize) -> u8 {
    b'a' + ((call * 7 + at + at / 26) % 26) as u8
}

/// Trailer fields that may be sent, and some that may not.
pub(crate) fn trailers() -> http::HeaderMap {
    let fields =
        [("x-trailer", "a"), ("content-length", "1"), ("transfer-encoding", "chunked"), ("etag", "b")];
    let spelled = fields
        .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
    spelled.into_iter().collect()
}

/// The field that names the call of a response.
pub(crate) const CALL: &str = "X-Call";

impl Answer {
    /// The answer if the script does not specify one.
    pub(crate) const USUAL: Self = Self { status: 200, len: Some(10), fields: 0 };

    pub(crate) fn head(self, call: usize) -> ResponseHead {
        let len = self.len.unwrap_or(0).to_string();
        let long = "v".repeat(1000);
        let may_have: [(&str, &str); 8] = [
            ("Connection", "close, x-call"),
            ("Transfer-Encoding", "gzip, chunked"),
            ("Upgrade", "x"),
            ("X-Long", &long),
            ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("Keep-Alive", "timeout=5"),
            ("X-Invalid", "a\r\nContent-Length: 0"),
            ("Content-Length", &len),
        ];
        let head = ResponseHead::new(self.status).field(CALL, call.to_string());
        let has = |bit: usize| match bit {
            // Fields that make sending fail are rare, and so is a length that may be wrong.
            6 | 7 => self.fields & 0b1100_0000 == (bit as u8 - 5) << 6,
            _ => self.fields >> bit & 1 == 1,
        };
        may_have
            .into_iter()
            .enumerate()
            .filter(|(bit, _)| has(*bit))
            .fold(head, |head, (_, (name, value))| head.field(name, value))
    }
}

/// A blocking handler.
pub(crate) fn call(
    app: &Application,
    head: &Head<'_>,
    mut body: BodyReader<'_>,
    out: Responder<'_>,
) -> Result<(), AppError> {
    let call = app.begin(head.method(), head.target());
    let mut out = Some(out);
    let mut writer: Option<Box<dyn Write>> = None;
    let mut raw = None;
    while let Some(command) = app.next() {
        match (command, out.take()) {
            (Command::Read(size), rest) => {
                out = rest;
                let mut buffer = vec![0; size.clamp(1, 1 << 16)];
                let n = match &mut raw {
                    None => body.read(&mut buffer)?,
                    Some(raw) => match Read::read(raw, &mut buffer) {
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                        read => read?,
                    },
                };
                app.note_read(call, &buffer[..n]);
            }
            (Command::Send(answer), Some(out)) => {
                let content = app.content(call, answer.len.unwrap_or(3));
                app.note_written(call, content.len());
                out.send(answer.head(call), content)?;
            }
            (Command::Begin(answer), Some(out)) => writer = Some(Box::new(out.stream(answer.head(call))?)),
            (Command::Interim(answer), Some(rest)) => {
                // A head that is no interim response is refused, and changes nothing.
                let _ = rest.interim(&answer.head(call));
                out = Some(rest);
            }
            (Command::Upgrade(answer), Some(out)) => {
                raw = Some(out.upgrade(answer.head(call))?);
                app.note(call, |call| call.upgraded = Some(Vec::new()));
            }
            (Command::Write(size) | Command::WriteShared(size), None) => {
                let content = app.content(call, size);
                let written = match (&mut raw, &mut writer) {
                    (Some(raw), _) => raw.write(&content)?,
                    (None, Some(writer)) => writer.write(&content)?,
                    (None, None) => 0,
                };
                app.note_written(call, written);
            }
            (Command::Flush, rest) => {
                out = rest;
                if let Some(writer) = &mut writer {
                    writer.flush()?;
                }
            }
            (Command::Finish, _) => return Ok(()),
            (Command::Fail, _) => return Err(AppError::msg("as the script says")),
            (_, rest) => out = rest,
        }
    }
    match out {
        Some(out) => {
            let content = app.content(call, 10);
            app.note_written(call, content.len());
            Ok(out.send(Answer::USUAL.head(call), content)?)
        }
        None => Ok(()),
    }
}

/// An async handler.
#[derive(Debug)]
pub(crate) struct Future(pub(crate) Arc<Application>);

#[async_trait(?Send)]
impl AsyncHandler for Future {
    async fn call(&self, request: Request<Incoming>) -> Response<Body> {
        let app = &self.0;
        let call = app.begin(request.method().as_str(), &request.uri().to_string());
        let mut body = Some(request.into_body());
        while let Some(command) = app.next() {
            match command {
                Command::Read(_) => {
                    let Some(body) = &mut body else { continue };
                    match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
                        Some(Ok(frame)) => app.note_read(call, &frame.into_data().unwrap_or_default()),
                        Some(Err(_)) => {}
                        None => app.note_read(call, &[]),
                    }
                }
                Command::Send(answer) => {
                    let content = app.content(call, answer.len.unwrap_or(3));
                    app.note_written(call, content.len());
                    return response(answer, call, Body::from(content));
                }
                Command::Begin(answer) => {
                    return response(answer, call, Body::new(Stream { app: app.clone(), call, raw: None }));
                }
                Command::Upgrade(answer) => {
                    let raw = body.as_mut().and_then(Incoming::upgrade);
                    // The machine decides whether the protocol changes. If it does not, there is
                    // nothing to read.
                    app.note(call, |call| call.upgraded = Some(Vec::new()));
                    let stream = Stream { app: app.clone(), call, raw };
                    return response(Answer { fields: answer.fields | 4, ..answer }, call, Body::new(stream));
                }
                Command::Interim(answer) => {
                    if let Some(body) = &body {
                        let _ = body.info().interim(&answer.head(call));
                    }
                }
                Command::Discard => body = None,
                Command::Wait => poll_fn(|cx| app.poll_open(cx.waker())).await,
                Command::Finish => break,
                _ => {}
            }
        }
        let content = app.content(call, 10);
        app.note_written(call, content.len());
        response(Answer::USUAL, call, Body::from(content))
    }
}

/// Parts of an answer that `http` cannot represent are left out.
fn response(answer: Answer, call: usize, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap_or_default();
    let fields = response.headers_mut();
    fields.insert(CALL, http::HeaderValue::from(call));
    for (bit, name, value) in [
        (0, "connection", "close"),
        (1, "transfer-encoding", "gzip, chunked"),
        (2, "upgrade", "x"),
        (4, "date", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ] {
        if answer.fields >> bit & 1 == 1 {
            fields.insert(name, http::HeaderValue::from_static(value));
        }
    }
    if answer.fields & 0b1100_0000 == 0b1000_0000 {
        fields.insert("content-length", http::HeaderValue::from(answer.len.unwrap_or(0)));
    }
    response
}

/// The body of a response, made as it is sent.
struct Stream {
    app: Arc<Application>,
    call: usize,
    /// The bytes after the request, if the protocol was changed.
    raw: Option<Incoming>,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = AppError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AppError>>> {
        let Self { app, call, raw } = self.get_mut();
        loop {
            // A command that has to wait is not taken before its time.
            let next = app.state().commands.as_slice().first().cloned();
            match next {
                Some(Command::Write(size) | Command::WriteShared(size)) => {
                    app.next();
                    let content = app.content(*call, size);
                    app.note_written(*call, content.len());
                    return Poll::Ready(Some(Ok(Frame::data(content.into()))));
                }
                Some(Command::Read(_)) => {
                    if let Some(raw) = raw {
                        match Pin::new(raw).poll_frame(cx) {
                            Poll::Pending => return Poll::Pending,
                            Poll::Ready(Some(Ok(frame))) => {
                                app.note_read(*call, &frame.into_data().unwrap_or_default());
                            }
                            Poll::Ready(_) => {}
                        }
                    }
                }
                Some(Command::Wait) if app.poll_open(cx.waker()).is_pending() => return Poll::Pending,
                Some(Command::Fail) => {
                    app.next();
                    return Poll::Ready(Some(Err(AppError::msg("as the script says"))));
                }
                Some(Command::FinishWith) => {
                    app.next();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers()))));
                }
                Some(Command::Finish) | None => {
                    app.next();
                    return Poll::Ready(None);
                }
                Some(_) => {}
            }
            app.next();
        }
    }
}
