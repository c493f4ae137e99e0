//! The server under test: remuda's command line around its built-in application, and around what no application
//! should do.
//!
//! `FIXTURE_APPLICATION` chooses between its two kinds, `blocking` and `async`; without it the backend does. `tokio` is
//! async as well, and lives in tokio from when it is built.
//!
//! - A field `Tell: WORD` of a request makes it say `WORD` on standard output when its handler begins.
//! - `GET /hang?ms=N` blocks the worker's loop for N ms, of the blocking kind by saying that it is short.
//! - `GET /spawn?ms=N` awaits a task that sleeps N ms in tokio.
//! - `POST /collect` reads the whole body before it says how long that was.
//! - `GET /environment` gives the worker's environment, a line for each variable.
//! - `GET /grow?mb=N` has the worker keep N MiB more for good.
//! - `GET /deaf` upgrades, and takes no notice of a drain.
//! - `GET /overtime?ms=N` sleeps for N ms and then answers, `/overtime/begun?ms=N` after it has sent the head and a piece. The
//!   blocking kind says on standard output what came of that, `<answered>` or the error, with `<told>` before it if the
//!   drain's signal was set by then; the async kind says `<dropped>` when its future is dropped before that.
//! - `GET /patient?ms=N` and `/patient/begun?ms=N` are the same for a handler of the blocking kind that asks whether its client
//!   is gone: it ends then, and says `<gone>`.
//! - `GET /farewell?n=N` upgrades, reads until the client has ended its side, and then sends as many bytes.
//! - What is under `/message/` is said in the module `message`.
//! - A file `stall-boot` in the working directory keeps the next worker that boots, which removes the file, from
//!   being ready; `crash-boot` ends each that boots while it is there, and with `fail-boot` each fails to boot.
//! - With `FIXTURE_HOOKS` in the environment the file `journal` in the working directory has a line for each hook that is
//!   called, and for each time that the application is built; the hooks that its value names panic then, and those
//!   that it names as in `pre_fork:slow` take 1.2 s.
//! - `FIXTURE_RECORDS` says which versions of records of connections that move it reads, the one that it writes last: with `1` it is
//!   a version that knows no newer ones, with `1,65535` a newer one than there is.
//! - `FIXTURE_FAULT` makes whatever builds the application `fail`, `panic` or start a `thread`; `FIXTURE_MEGABYTES` has the
//!   application hold so many.

use std::convert::Infallible;
use std::env;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
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
use remuda::{
    App, AppError, AppFactory, AsyncHandler, Body, BodyReader, BodyWriter, Boot, Bytes, ChildExit, Handler,
    Head, Hooks, Incoming, Outcome, Reason, Responder, ResponseHead, Server, ServerInfo, WorkerExit,
    WorkerInfo, WorkerPlace, demo, sleep,
};

pub(crate) mod message;

/// The server, for the `main` of a binary. One with a backend of its own adds that.
pub fn server() -> Server {
    let is_tokio = env::var_os("FIXTURE_APPLICATION").is_some_and(|kind| kind == "tokio");
    let server = match is_tokio {
        true => Server::from_factory(AppFactory::from_async(build_in_tokio).with_tokio()),
        false => Server::new(build),
    };
    let server = match env::var("FIXTURE_RECORDS") {
        Ok(records) => server.records(records.parse().expect("FIXTURE_RECORDS is a list of numbers")),
        Err(_) => server,
    };
    match env::var(HOOKS) {
        Ok(told) => server.hooks(Journal { told: told.split(',').map(str::to_owned).collect() }),
        Err(_) => server,
    }
}

/// The variable that says how hooks are to misbehave.
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
        Ok("thread") => {
            let (started, start) = mpsc::channel();
            thread::Builder::new()
                .name("bystander".into())
                .spawn(move || started.send(()).map(|()| thread::sleep(Duration::MAX)))?;
            start.recv()?; // a thread names itself
        }
        _ => {}
    }
    if Path::new("crash-boot").exists() {
        process::abort();
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
    Ok(if is_async { App::future(fixture) } else { App::blocking(fixture) })
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
            "/grow" => {
                grow(head.query());
                Ok(out.send(ResponseHead::new(200), "larger\n")?)
            }
            "/collect" => {
                let len = io::copy(&mut body, &mut io::sink())?;
                Ok(out.send(ResponseHead::new(200), format!("{len}\n"))?)
            }
            "/environment" => Ok(out.send(ResponseHead::new(200), environment())?),
            "/deaf" => Ok(echo(out.upgrade(ResponseHead::new(101).field("Upgrade", "echo"))?)?),
            "/overtime" | "/overtime/begun" => Ok(overtime(head, out)?),
            "/patient" | "/patient/begun" => Ok(patient(head, out)?),
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
            "/collect" | "/deaf" | "/overtime" | "/overtime/begun" => false,
            "/patient" | "/patient/begun" | "/farewell" => false,
            path if message::name(path).is_some() => false,
            _ => self.demo.is_short(head),
        }
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
            "/grow" => {
                grow(request.uri().query());
                Response::new("larger\n".into())
            }
            "/collect" => Response::new(collect(request.into_body()).await.into()),
            "/environment" => Response::new(environment().into()),
            "/deaf" => {
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
                Response::new(Body::new(Begun::new(time(request.uri().query()))))
            }
            path => match message::name(path).map(str::to_owned) {
                Some(name) => message::future(&name, request).await,
                None => self.demo.call(request).await,
            },
        }
    }
}

/// Says that the handler of a request has begun, if it asks for that.
fn tell(word: Option<&[u8]>) {
    if let Some(word) = word {
        // Whoever asked notices if nothing can be said.
        let _ = io::stdout().write_all(&[word, b"\n"].concat());
    }
}

/// Says how long a body is, or why nobody will ever know.
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

/// Takes its time, whatever it is told, and says what came of that.
fn overtime(head: &Head<'_>, out: Responder<'_>) -> io::Result<()> {
    let (drain, time) = (out.drain(), time(head.query()));
    let rest = begin(head, out)?;
    thread::sleep(time);
    if drain.is_set() {
        tell(Some(b"<told>"));
    }
    let done = match rest {
        Err(out) => out.send(ResponseHead::new(200), "late\n"),
        Ok(mut begun) => begun.write_all(b"late\n").and_then(|()| begun.flush()),
    };
    let what = done.as_ref().map_or_else(|error| format!("<{error}>"), |()| "<answered>".to_owned());
    tell(Some(what.as_bytes()));
    done
}

/// Takes its time while somebody waits for it.
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

/// Sends the head and a piece, if the path asks for that.
fn begin<'a>(head: &Head<'_>, out: Responder<'a>) -> io::Result<Result<BodyWriter<'a>, Responder<'a>>> {
    if !head.path().ends_with("/begun") {
        return Ok(Err(out));
    }
    let mut begun = out.stream(ResponseHead::new(200))?;
    begun.write_all(b"in time\n")?;
    begun.flush()?;
    Ok(Ok(begun))
}

/// Says more once the client has no more to say.
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

/// Sleeps, and says if it is dropped before the end of that.
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

/// A body of which a piece is there at once, and no more before its time is over.
struct Begun {
    has_begun: bool,
    rest: Pin<Box<dyn Future<Output = ()>>>,
}

impl Begun {
    fn new(time: Duration) -> Self {
        Self { has_begun: false, rest: Box::pin(sleep_guarded(time)) }
    }
}

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match mem::replace(&mut self.has_begun, true) {
            false => Poll::Ready(Some(Ok(Frame::data("in time\n".into())))),
            true => self.rest.as_mut().poll(cx).map(|()| None),
        }
    }
}

/// Echoes bytes until the client has no more, whatever happens to the worker.
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

/// Keeps so many MiB, each page of them written to.
fn grow(query: Option<&str>) {
    static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let mebibytes: usize = number(query, "mb=").unwrap_or(1);
    let more = vec![1; mebibytes << 20];
    KEPT.lock().expect("no one panics here").push(more);
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

/// Hooks that write down when they are called, in which process, and with what.
struct Journal {
    told: Vec<String>,
}

impl Journal {
    fn enter(&self, hook: &str, facts: fmt::Arguments<'_>) {
        note(hook, facts);
        if self.told.contains(&format!("{hook}:slow")) {
            thread::sleep(Duration::from_millis(1200));
        }
        assert!(!self.told.iter().any(|told| told == hook), "{hook} was told to");
    }
}

impl Hooks for Journal {
    fn on_starting(&self, server: &ServerInfo) {
        self.enter("on_starting", format_args!("workers={} heir={}", server.workers, server.is_heir));
    }

    fn when_ready(&self, server: &ServerInfo) {
        self.enter("when_ready", format_args!("workers={} heir={}", server.workers, server.is_heir));
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

/// Writes a line of the journal: what, in which process, with what.
fn note(what: &str, facts: fmt::Arguments<'_>) {
    let line = format!("{what} {} {facts}\n", process::id());
    let journal = OpenOptions::new().append(true).create(true).open("journal");
    journal.and_then(|mut file| file.write_all(line.as_bytes())).expect("the journal can be written");
}
