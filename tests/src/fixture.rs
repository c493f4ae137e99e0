//! The server under test: remuda's command line around its built-in application, and around
//! misbehaviour that no application should have.
//!
//! `FIXTURE_APPLICATION` selects the kind, `blocking` or `async`. Without it the backend does.
//! `tokio` is async too, and is built and runs in tokio. `tower` is a tower service that needs
//! tokio to be built and to answer, `tower-app` one that needs it only to answer, as an `App`.
//! These two have none of the following:
//!
//! - A field `Tell: WORD` of a request makes its handler write `WORD` to standard output when it
//!   begins.
//! - `GET /hang?ms=N` blocks the worker's loop for N ms. The blocking kind does so by declaring
//!   itself short.
//! - `GET /spawn?ms=N` awaits a task that sleeps N ms in tokio.
//! - `POST /collect` reads the whole body and then answers its length.
//! - `GET /environment` answers the worker's environment, a line for each variable.
//! - `GET /child` answers `/proc/self/status` of a program that the handler starts.
//! - `GET /grow?mb=N` makes the worker keep N MiB more for good.
//! - `GET /panic` panics.
//! - `GET /exhaust` allocates more memory than there can be, which aborts the worker.
//! - `GET /seize` makes the worker hold for good: the file `seized` in the working directory,
//!   locked by flock(2) and by fcntl(2), the writing end of the FIFO `pipe` there, and a TCP port,
//!   which it answers.
//! - `GET /ignore-drain` upgrades, and ignores a drain.
//! - `GET /overtime?ms=N` sleeps for N ms and then answers, `/overtime/begun?ms=N` after it has
//!   sent the head and a piece. The blocking kind writes the outcome to standard output,
//!   `<answered>` or the error, with `<drain>` before it if the drain signal was set by then. The
//!   async kind writes `<dropped>` if its future is dropped before its end.
//! - `GET /patient?ms=N` and `/patient/begun?ms=N` are the same, except that the blocking kind asks
//!   whether its client is gone. If so it ends, and writes `<gone>`.
//! - `GET /client-end?ms=N` answers `ended` when its client has ended its side, or `stayed` after N
//!   ms. `/client-end/begun?ms=N` does so after it has sent the head and a piece. Before that, either
//!   writes `<ended>` or `<stayed>` to standard output.
//! - `GET /after?ms=N` sends its whole response, works on for N ms, and then writes `<worked>` to
//!   standard output. The blocking kind makes the response with `send`, `/after/length` with as
//!   many bytes as its Content-Length says, `/after/finish` with a body that it finishes.
//!   `/after/pieces` writes a second piece 100 ms after the first, and a third at the end.
//! - `GET /farewell?n=N` upgrades, reads until the client has ended its side, and then sends N
//!   bytes.
//! - `GET /leave?ms=N` answers at once and leaves a thread behind that holds the worker for N ms
//!   and then writes `left` to the journal. `/leave/loosely?ms=N` leaves one that does not hold the
//!   worker, `/leave/task?ms=N` a tokio task that does.
//! - Paths under `/message/` are described in the module `message`.
//! - A file `stall-boot` in the working directory keeps the next booting worker, which removes the
//!   file, from becoming ready. While `hold-boot` exists, booting workers wait. While `crash-boot` exists, each booting worker crashes, and while
//!   `fail-boot` exists, each fails to boot.
//! - With `FIXTURE_HOOKS` in the environment the file `journal` in the working directory has a line
//!   for each hook that is called, and for each time that the application is built. Hooks that its
//!   value names panic, and hooks that it names as in `pre_fork:slow` take 1.2 s.
//! - With `FIXTURE_END` in the environment the application has an end of its own in a worker that
//!   has drained: it writes `end_begun` to the journal, sleeps as many ms as the value says, and
//!   writes `end_over`. With `panic` it panics instead.
//! - With `FIXTURE_OVER` in the environment the application is also served over the protocol that
//!   the module `double` describes.
//! - `FIXTURE_RECORDS` lists the versions of connection records that it reads. It writes the last
//!   one. `1` makes a version that knows no newer ones, `1,65535` one that is newer than any.
//! - `FIXTURE_HOARD` is for how many milliseconds two threads of each worker open files up to its
//!   limit, close them all and begin again, from its first connection on.
//! - `FIXTURE_POLICY` is the name of a shutdown policy that panics when it is asked.
//! - `FIXTURE_FAULT` makes the build of the application `fail`, `panic`, start a `thread` or expect
//!   to be in `tokio`. `FIXTURE_MEGABYTES` makes the application hold so many.

use std::convert::Infallible;
use std::env;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::future::poll_fn;
use std::hint;
use std::io::{self, ErrorKind, Read, Write};
use std::iter;
use std::mem;
use std::net::TcpListener;
use std::path::Path;
use std::pin::Pin;
use std::process;
use std::str::FromStr;
use std::sync::{Mutex, mpsc};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{Request, Response};
use http_body::Frame;
use remuda::app::{AppFactory, AsyncHandler, BodyWriter, Boot, DrainSignal, Handler, Incoming, IntoApp};
use remuda::hooks::{ChildExit, Hooks, Outcome, ServerInfo, WorkerExit, WorkerInfo, WorkerPlace};
use remuda::policy::{Announce, ConnView, Drain, Idle, Reason, ShutdownPolicy, Time};
use remuda::{App, AppError, Body, BodyReader, Bytes, Head, Responder, ResponseHead, Server, demo, sleep};
use rustix::fs::FlockOperation;

pub(crate) mod double;
pub(crate) mod message;
mod tower;

/// The server, for the `main` of a binary. A binary with another backend adds it.
pub fn server() -> Server {
    let server = match env::var("FIXTURE_APPLICATION").as_deref() {
        Ok("tokio") => Server::from_factory(AppFactory::from_async(build_in_tokio).with_tokio()),
        Ok("tower") => Server::new(tower::build),
        Ok("tower-app") => Server::new(|_| Ok(tower::Sleeper.into_app())),
        _ => Server::new(build),
    };
    let server = match env::var("FIXTURE_RECORDS") {
        Ok(records) => server.records(records.parse().expect("FIXTURE_RECORDS is a list of numbers")),
        Err(_) => server,
    };
    let server = match env::var("FIXTURE_POLICY") {
        Ok(name) => server.policy(name, Panics),
        Err(_) => server,
    };
    match env::var(HOOKS) {
        Ok(faults) => server.hooks(Journal { faults: faults.split(',').map(str::to_owned).collect() }),
        Err(_) => server,
    }
}

/// A policy that panics in the middle of a drain, as soon as there is a connection between requests.
#[derive(Debug)]
struct Panics;

impl ShutdownPolicy for Panics {
    fn idle(&self, _: &Drain, _: &ConnView, _: Time) -> Idle {
        panic!("the policy was told to panic")
    }

    fn announce(&self, _: &Drain, _: &ConnView, _: Time) -> Announce {
        Announce::KeepAlive
    }
}

/// The variable that makes hooks misbehave.
const HOOKS: &str = "FIXTURE_HOOKS";

async fn build_in_tokio(boot: Boot) -> Result<App, AppError> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    build(&boot)
}

fn build(boot: &Boot) -> Result<App, AppError> {
    if env::var_os(HOOKS).is_some() {
        note("build", format_args!("slot={} preloaded={}", boot.slot, boot.preloaded));
    }
    match env::var("FIXTURE_FAULT").as_deref() {
        Ok("fail") => return Err(AppError::msg("it was told to fail")),
        Ok("panic") => panic!("it was told to panic"),
        Ok("tokio") => drop(tokio::spawn(async {})),
        Ok("thread") => {
            let (started, start) = mpsc::channel();
            thread::Builder::new()
                .name("bystander".into())
                .spawn(move || started.send(()).map(|()| thread::sleep(Duration::MAX)))?;
            start.recv()?; // a thread names itself
        }
        _ => {}
    }
    if let Ok(time) = env::var("FIXTURE_HOARD") {
        let time = Duration::from_millis(time.parse()?);
        for _ in 0..2 {
            thread::spawn(move || hoard(time));
        }
    }
    if Path::new("crash-boot").exists() {
        process::abort();
    }
    while Path::new("hold-boot").exists() {
        thread::sleep(Duration::from_millis(5));
    }
    while fs::remove_file("stall-boot").is_ok() {
        thread::sleep(Duration::MAX);
    }
    if Path::new("fail-boot").exists() {
        return Err(AppError::msg("there is a file fail-boot"));
    }
    let is_async = match env::var("FIXTURE_APPLICATION").as_deref() {
        Ok("blocking") => false,
        Ok("async" | "tokio") => true,
        Err(env::VarError::NotPresent) => demo::is_async(boot),
        other => {
            let message = format!("FIXTURE_APPLICATION is {other:?}; allowed: blocking, async, tokio");
            return Err(AppError::msg(message));
        }
    };
    let megabytes = env::var("FIXTURE_MEGABYTES").map_or(Ok(0), |number| number.parse())?;
    let fixture = Fixture { demo: demo::handler(boot), _memory: vec![1; megabytes << 20] };
    let app = if is_async { App::future(fixture) } else { App::blocking(fixture) };
    let app = if env::var_os("FIXTURE_OVER").is_some() { app.over(double::Double) } else { app };
    Ok(match env::var("FIXTURE_END") {
        Ok(what) if what == "panic" => app.on_drained(|_| async { panic!("it was told to panic") }),
        Ok(time) => {
            let time = Duration::from_millis(time.parse()?);
            app.on_drained(move |drain| end(drain.reason, time))
        }
        Err(_) => app,
    })
}

/// The application's own end in a worker.
async fn end(reason: Reason, time: Duration) {
    note("end_begun", format_args!("reason={reason:?}"));
    match env::var("FIXTURE_APPLICATION").as_deref() {
        Ok("tokio") => tokio::time::sleep(time).await,
        _ => sleep(time).await,
    }
    note("end_over", format_args!("reason={reason:?}"));
}

/// Leaves a thread or task behind, which writes to the journal when `time` is over.
fn leave(drain: &DrainSignal, path: &str, time: Duration) {
    let hold = (path != "/leave/loosely").then(|| drain.hold());
    if path == "/leave/task" {
        drop(tokio::spawn(async move {
            tokio::time::sleep(time).await;
            note("left", format_args!("task"));
            drop(hold);
        }));
        return;
    }
    thread::spawn(move || {
        thread::sleep(time);
        note("left", format_args!("thread"));
        drop(hold);
    });
}

struct Fixture<H> {
    demo: H,
    _memory: Vec<u8>,
}

impl<H: Handler> Handler for Fixture<H> {
    fn call(&self, head: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
        tell(head.field("Tell"));
        match head.path() {
            "/hang" => {
                hang(head.query());
                Ok(out.send(ResponseHead::new(200), "late\n")?)
            }
            "/panic" => panic!("as it was asked to"),
            "/exhaust" => exhaust(),
            "/grow" => {
                grow(head.query());
                Ok(out.send(ResponseHead::new(200), "larger\n")?)
            }
            "/collect" => {
                let len = io::copy(&mut body, &mut io::sink())?;
                Ok(out.send(ResponseHead::new(200), format!("{len}\n"))?)
            }
            "/seize" => Ok(out.send(ResponseHead::new(200), seize()?)?),
            "/environment" => Ok(out.send(ResponseHead::new(200), environment())?),
            "/child" => Ok(out.send(ResponseHead::new(200), child()?)?),
            "/ignore-drain" => Ok(echo(out.upgrade(ResponseHead::new(101).field("Upgrade", "echo"))?)?),
            "/overtime" | "/overtime/begun" => Ok(overtime(head, out)?),
            "/patient" | "/patient/begun" => Ok(patient(head, out)?),
            "/client-end" | "/client-end/begun" => Ok(client_end(head, out)?),
            "/after" | "/after/length" | "/after/finish" | "/after/pieces" => Ok(after(head, out)?),
            path @ ("/leave" | "/leave/loosely") => {
                leave(&out.drain(), path, time(head.query()));
                Ok(out.send(ResponseHead::new(200), "more to do\n")?)
            }
            "/farewell" => Ok(farewell(head, out)?),
            path => match message::name(path) {
                Some(name) => message::blocking(name, head, body, out),
                None => self.demo.call(head, body, out),
            },
        }
    }

    fn is_short(&self, head: &Head<'_>) -> bool {
        match head.path() {
            "/hang" => true,
            "/child" | "/collect" | "/exhaust" | "/ignore-drain" | "/panic" => false,
            "/overtime" | "/overtime/begun" => false,
            "/patient" | "/patient/begun" | "/client-end" | "/client-end/begun" | "/farewell" => false,
            path if path.starts_with("/after") || message::name(path).is_some() => false,
            _ => self.demo.is_short(head),
        }
    }

    fn streams_body(&self, head: &Head<'_>) -> bool {
        self.demo.streams_body(head)
    }
}

#[async_trait(?Send)]
impl<H: AsyncHandler> AsyncHandler for Fixture<H> {
    async fn call(&self, mut request: Request<Incoming>) -> Response<Body> {
        tell(request.headers().get("Tell").map(|word| word.as_bytes()));
        match request.uri().path() {
            "/hang" => {
                hang(request.uri().query());
                Response::new("late\n".into())
            }
            "/spawn" => {
                let task = tokio::spawn(tokio::time::sleep(time(request.uri().query())));
                task.await.expect("a task that sleeps does not fail");
                Response::new("late\n".into())
            }
            "/panic" => panic!("as it was asked to"),
            "/exhaust" => exhaust(),
            "/grow" => {
                grow(request.uri().query());
                Response::new("larger\n".into())
            }
            "/collect" => Response::new(collect(request.into_body()).await.into()),
            "/seize" => Response::new(seize().unwrap_or_else(|error| error.to_string()).into()),
            "/environment" => Response::new(environment().into()),
            "/child" => Response::new(child().unwrap_or_else(|error| error.to_string().into()).into()),
            "/ignore-drain" => {
                let echo = request.body_mut().upgrade().map(Body::new).unwrap_or_default();
                let response = Response::builder().status(101).header("Upgrade", "echo").body(echo);
                response.expect("a status and a field of ours are valid")
            }
            "/farewell" => {
                let n = number(request.uri().query(), "n=").unwrap_or_default();
                let farewell =
                    request.body_mut().upgrade().map(|client| Farewell { client: Some(client), n });
                let body = farewell.map(Body::new).unwrap_or_default();
                let response = Response::builder().status(101).header("Upgrade", "farewell").body(body);
                response.expect("a status and a field of ours are valid")
            }
            "/overtime" | "/patient" => {
                sleep_guarded(time(request.uri().query())).await;
                Response::new("late\n".into())
            }
            "/overtime/begun" | "/patient/begun" => {
                let time = time(request.uri().query());
                Response::new(Body::new(Begun::new(async move {
                    sleep_guarded(time).await;
                    None
                })))
            }
            "/after" | "/after/length" | "/after/finish" | "/after/pieces" => {
                let begun = Begun::new(work_on(time(request.uri().query())));
                let response = Response::builder().header("Content-Length", "8").body(Body::new(begun));
                response.expect("a field of ours is valid")
            }
            path @ ("/leave" | "/leave/loosely" | "/leave/task") => {
                leave(&request.body().info().drain, path, time(request.uri().query()));
                Response::new("more to do\n".into())
            }
            "/client-end" => Response::new(client_end_async(&request).await.into()),
            "/client-end/begun" => {
                let end = client_end_async(&request);
                Response::new(Body::new(Begun::new(async { Some(end.await) })))
            }
            path => match message::name(path).map(str::to_owned) {
                Some(name) => message::future(&name, request).await,
                None => self.demo.call(request).await,
            },
        }
    }

    fn streams_body(&self, head: &Head<'_>) -> bool {
        self.demo.streams_body(head)
    }
}

/// Writes that the handler of a request has begun, if the request asks for it.
fn tell(word: Option<&[u8]>) {
    if let Some(word) = word {
        // The test notices if the word is missing.
        let _ = io::stdout().write_all(&[word, b"\n"].concat());
    }
}

/// The length of the body, or the error that ended it.
async fn collect(mut body: Incoming) -> String {
    let mut len = 0;
    while let Some(frame) = poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await {
        match frame {
            Ok(frame) => len += frame.data_ref().map_or(0, Bytes::len),
            Err(error) => return format!("{error}\n"),
        }
    }
    format!("{len}\n")
}

/// Runs for the requested time, ignoring all signals, and writes the outcome.
fn overtime(head: &Head<'_>, out: Responder<'_>) -> io::Result<()> {
    let (drain, time) = (out.drain(), time(head.query()));
    let rest = begin(head, out)?;
    thread::sleep(time);
    if drain.is_set() {
        tell(Some(b"<drain>"));
    }
    let done = match rest {
        Err(out) => out.send(ResponseHead::new(200), "late\n"),
        Ok(mut begun) => begun.write_all(b"late\n").and_then(|()| begun.flush()),
    };
    let what = done.as_ref().map_or_else(|error| format!("<{error}>"), |()| "<answered>".to_owned());
    tell(Some(what.as_bytes()));
    done
}

/// Runs for the requested time, unless the client is gone before.
fn patient(head: &Head<'_>, out: Responder<'_>) -> io::Result<()> {
    let end = Instant::now() + time(head.query());
    let rest = begin(head, out)?;
    while Instant::now() < end {
        let is_gone = match &rest {
            Err(out) => out.is_gone(),
            Ok(begun) => begun.is_gone(),
        };
        if is_gone {
            tell(Some(b"<gone>"));
            return Err(ErrorKind::BrokenPipe.into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    match rest {
        Err(out) => out.send(ResponseHead::new(200), "late\n"),
        Ok(mut begun) => begun.write_all(b"late\n"),
    }
}

/// Waits until the client has ended its side or the time is over, and writes which.
fn client_end(head: &Head<'_>, out: Responder<'_>) -> io::Result<()> {
    let end = Instant::now() + time(head.query());
    let rest = begin(head, out)?;
    let has_ended = loop {
        let has_ended = match &rest {
            Err(out) => out.has_client_ended(),
            Ok(begun) => begun.has_client_ended(),
        };
        if has_ended || Instant::now() >= end {
            break has_ended;
        }
        thread::sleep(Duration::from_millis(5));
    };
    match rest {
        Err(out) => out.send(ResponseHead::new(200), which(has_ended)),
        Ok(mut begun) => begun.write_all(which(has_ended).as_bytes()),
    }
}

/// The same for an async handler.
fn client_end_async(request: &Request<Incoming>) -> impl Future<Output = &'static str> + use<> {
    let end = request.body().info().client_end.clone();
    let time = time(request.uri().query());
    async move {
        let mut ended = Box::pin(async move {
            end.ended().await;
            assert!(end.is_set(), "the flag and the future agree");
        });
        let mut over = Box::pin(sleep(time));
        let has_ended = poll_fn(|cx| match ended.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => over.as_mut().poll(cx).map(|()| false),
        });
        which(has_ended.await)
    }
}

fn which(has_ended: bool) -> &'static str {
    tell(Some(if has_ended { b"<ended>" } else { b"<stayed>" }));
    if has_ended { "ended\n" } else { "stayed\n" }
}

/// Sends the head and a piece, if the path asks for it.
fn begin<'a>(head: &Head<'_>, out: Responder<'a>) -> io::Result<Result<BodyWriter<'a>, Responder<'a>>> {
    if !head.path().ends_with("/begun") {
        return Ok(Err(out));
    }
    let mut begun = out.stream(ResponseHead::new(200))?;
    begun.write_all(b"in time\n")?;
    begun.flush()?;
    Ok(Ok(begun))
}

/// Answers, and works on.
fn after(head: &Head<'_>, out: Responder<'_>) -> io::Result<()> {
    let ok = ResponseHead::new(200);
    let mut pieces = None;
    match head.path() {
        "/after" => out.send(ok, "in time\n")?,
        "/after/length" => out.stream(ok.field("Content-Length", "8"))?.write_all(b"in time\n")?,
        "/after/finish" => {
            let mut out = out.stream(ok)?;
            out.write_all(b"in time\n")?;
            out.finish(http::HeaderMap::new());
        }
        _ => {
            let mut out = out.stream(ok)?;
            out.write_all(b"in ")?;
            thread::sleep(Duration::from_millis(100));
            out.write_all(b"time\n")?;
            pieces = Some(out);
        }
    }
    thread::sleep(time(head.query()));
    tell(Some(b"<worked>"));
    pieces.map_or(Ok(()), |mut out| out.write_all(b"late\n"))
}

/// The same for a body that has sent all of its bytes.
async fn work_on(time: Duration) -> Option<&'static str> {
    sleep(time).await;
    tell(Some(b"<worked>"));
    None
}

/// Sends the rest once the client has ended its side.
fn farewell(head: &Head<'_>, out: Responder<'_>) -> io::Result<()> {
    let n = number(head.query(), "n=").unwrap_or_default();
    let mut socket = out.upgrade(ResponseHead::new(101).field("Upgrade", "farewell"))?;
    io::copy(&mut socket, &mut io::sink())?;
    socket.write_all(&vec![b'x'; n])?;
    socket.flush()
}

/// The same as a body.
struct Farewell {
    client: Option<Incoming>,
    n: usize,
}

impl http_body::Body for Farewell {
    type Data = Bytes;
    type Error = AppError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AppError>>> {
        while let Some(client) = &mut self.client {
            match ready!(Pin::new(client).poll_frame(cx)) {
                Some(frame) => drop(frame?),
                None => self.client = None,
            }
        }
        let n = mem::take(&mut self.n);
        Poll::Ready((n > 0).then(|| Ok(Frame::data(vec![b'x'; n].into()))))
    }
}

/// Sleeps, and writes a word if it is dropped before its end.
async fn sleep_guarded(time: Duration) {
    let mut guard = Guard { is_over: false };
    sleep(time).await;
    guard.is_over = true;
}

struct Guard {
    is_over: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_over {
            tell(Some(b"<dropped>"));
        }
    }
}

/// A body with a first piece that is ready at once, and a second one, or none, when a future is.
struct Begun {
    has_begun: bool,
    rest: Option<Pin<Box<dyn Future<Output = Option<&'static str>>>>>,
}

impl Begun {
    fn new(rest: impl Future<Output = Option<&'static str>> + 'static) -> Self {
        Self { has_begun: false, rest: Some(Box::pin(rest)) }
    }
}

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !mem::replace(&mut self.has_begun, true) {
            return Poll::Ready(Some(Ok(Frame::data("in time\n".into()))));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let last = ready!(rest.as_mut().poll(cx));
        self.rest = None;
        Poll::Ready(last.map(|last| Ok(Frame::data(last.into()))))
    }
}

/// Echoes bytes until the client ends its side, also in a drain.
fn echo(mut socket: impl Read + Write) -> io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => socket.write_all(&buffer[..n]).and_then(|()| socket.flush())?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn environment() -> String {
    env::vars().map(|(name, value)| format!("{name}={value}\n")).collect()
}

/// Waits for the first connection of this process. Then opens files until no descriptor is free,
/// closes them, and begins again.
fn hoard(time: Duration) {
    let is_socket = |entry: fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
    };
    let sockets = || {
        fs::read_dir("/proc/self/fd")
            .map_or(0, |all| all.flatten().filter_map(|entry| is_socket(entry).then_some(())).count())
    };
    let before = sockets();
    while sockets() <= before {
        thread::sleep(Duration::from_millis(1));
    }
    let end = Instant::now() + time;
    while Instant::now() < end {
        let files: Vec<_> = iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
        drop(files);
    }
}

/// Takes a locked file, a pipe and a port, none of which is given back.
fn seize() -> io::Result<String> {
    static SEIZED: Mutex<Vec<(fs::File, fs::File, TcpListener)>> = Mutex::new(Vec::new());
    let file = fs::File::create("seized")?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let pipe = OpenOptions::new().write(true).open("pipe")?;
    let port = TcpListener::bind("127.0.0.1:0")?;
    let address = port.local_addr()?.to_string();
    SEIZED.lock().expect("no thread panics with the lock").push((file, pipe, port));
    Ok(address)
}

/// The status of a program that this process starts.
fn child() -> io::Result<Vec<u8>> {
    Ok(process::Command::new("cat").arg("/proc/self/status").output()?.stdout)
}

/// Keeps so many MiB, each page of them written to.
fn grow(query: Option<&str>) {
    static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let mebibytes: usize = number(query, "mb=").unwrap_or(1);
    let more = vec![1; mebibytes << 20];
    KEPT.lock().expect("no thread panics with the lock").push(more);
}

/// Requests memory that no allocator has.
fn exhaust() -> ! {
    hint::black_box(Vec::<u8>::with_capacity(isize::MAX as usize));
    unreachable!("an allocation that fails aborts the process")
}

fn hang(query: Option<&str>) {
    thread::sleep(time(query));
}

fn time(query: Option<&str>) -> Duration {
    Duration::from_millis(number(query, "ms=").unwrap_or(1000))
}

fn number<N: FromStr>(query: Option<&str>, name: &str) -> Option<N> {
    query?.strip_prefix(name)?.parse().ok()
}

/// Hooks that write when they are called, in which process, and with what.
struct Journal {
    faults: Vec<String>,
}

impl Journal {
    fn enter(&self, hook: &str, facts: fmt::Arguments<'_>) {
        note(hook, facts);
        if self.faults.contains(&format!("{hook}:slow")) {
            thread::sleep(Duration::from_millis(1200));
        }
        assert!(!self.faults.iter().any(|fault| fault == hook), "{hook} was told to");
    }
}

impl Hooks for Journal {
    fn on_starting(&self, server: &ServerInfo) {
        self.enter(
            "on_starting",
            format_args!("workers={} old_arbiter={}", server.workers, server.has_old_arbiter),
        );
    }

    fn when_ready(&self, server: &ServerInfo) {
        self.enter(
            "when_ready",
            format_args!("workers={} old_arbiter={}", server.workers, server.has_old_arbiter),
        );
    }

    fn pre_fork(&self, place: &WorkerPlace) {
        self.enter("pre_fork", format_args!("slot={} generation={}", place.slot, place.generation));
    }

    fn post_fork(&self, worker: &WorkerInfo) {
        self.enter("post_fork", format_args!("{}", facts(worker)));
    }

    fn post_worker_init(&self, worker: &WorkerInfo) {
        self.enter("post_worker_init", format_args!("{}", facts(worker)));
    }

    fn worker_exit(&self, worker: &WorkerInfo, exit: &WorkerExit) {
        let (facts, reason) = (facts(worker), reason(exit.reason));
        self.enter("worker_exit", format_args!("{facts} status={} reason={reason}", exit.exit.status()));
    }

    fn child_exit(&self, worker: &WorkerInfo, exit: &ChildExit) {
        let ChildExit { status, signal, is_replaced, .. } = exit;
        let (facts, reason) = (facts(worker), reason(exit.reason));
        self.enter(
            "child_exit",
            format_args!(
                "{facts} status={status:?} signal={signal:?} replaced={is_replaced} reason={reason}"
            ),
        );
    }

    fn nworkers_changed(&self, server: &ServerInfo, before: usize) {
        self.enter("nworkers_changed", format_args!("from={before} to={}", server.workers));
    }

    fn on_reload(&self, server: &ServerInfo) {
        self.enter("on_reload", format_args!("generation={}", server.generation));
    }

    fn pre_exec(&self, server: &ServerInfo) {
        self.enter("pre_exec", format_args!("arbiter={}", server.pid));
    }

    fn on_exit(&self, server: &ServerInfo, outcome: &Outcome) {
        self.enter("on_exit", format_args!("arbiter={} status={}", server.pid, outcome.status()));
    }
}

fn facts(worker: &WorkerInfo) -> String {
    format!("worker={} slot={} generation={}", worker.pid, worker.slot, worker.generation)
}

fn reason(reason: Option<Reason>) -> String {
    reason.map_or_else(|| "none".into(), |reason| format!("{reason:?}"))
}

/// Writes a line of the journal: the event, the process, and `facts`.
fn note(what: &str, facts: fmt::Arguments<'_>) {
    let line = format!("{what} {} {facts}\n", process::id());
    let journal = OpenOptions::new().append(true).create(true).open("journal");
    journal.and_then(|mut file| file.write_all(line.as_bytes())).expect("the journal can be written");
}
