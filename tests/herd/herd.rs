//! Clients that have one connection each, and record everything that happens to it.

use std::collections::HashSet;
use std::io;
use std::iter;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use remuda_conformance::client::{Address, Broken, Client, End, PATIENCE, Response};

/// The number of clients that send again as soon as they are answered, and of clients that pause
/// before.
const CLOSED_LOOP: usize = 16;
const THINKING: usize = 64;

/// The longest pause before a request, and between its two parts.
const THOUGHT: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(10);

const LARGE: usize = 512 * 1024;

pub(crate) struct Herd {
    address: Address,
    over: AtomicBool,
    answered: AtomicUsize,
    /// Connections without a response so far.
    newcomers: AtomicUsize,
    failures: Mutex<Vec<String>>,
    /// What the deaths of workers have cost. None: no worker may die.
    toll: Option<Mutex<Toll>>,
    /// Workers accept connections on a thread of their own.
    is_accepted_apart: bool,
}

/// What clients saw of the deaths of workers.
#[derive(Default)]
pub(crate) struct Toll {
    /// Workers that have ended, or are about to.
    dead: HashSet<u64>,
    /// Requests that were answered in place of their worker.
    pub(crate) told: usize,
    /// Responses that had begun.
    pub(crate) cut: usize,
    /// Requests whose head was sent in two parts, and the connection ended in between.
    pub(crate) halved: usize,
    /// New connections that the thread which accepts had not passed on: they end without a byte.
    pub(crate) unaccepted: usize,
    /// The longest time from a request to its response or its end.
    pub(crate) longest: Duration,
}

/// What came of a request.
pub(crate) enum Fate {
    Answered(Response),
    /// It was in flight on a worker that died, and was answered in its place.
    Told,
    /// Its response had begun when its worker died.
    Cut,
    /// The connection ended without a byte of a response.
    Ended,
}

impl Herd {
    pub(crate) fn new(address: &Address) -> Self {
        Self {
            address: address.clone(),
            over: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
            newcomers: AtomicUsize::new(0),
            failures: Mutex::default(),
            toll: None,
            is_accepted_apart: false,
        }
    }

    /// A herd that allows for the [death](Self::expect_death) of workers, and counts what each costs.
    /// `is_accepted_apart`: whether workers accept connections on a thread of their own.
    pub(crate) fn among_deaths(address: &Address, is_accepted_apart: bool) -> Self {
        Self { toll: Some(Mutex::default()), is_accepted_apart, ..Self::new(address) }
    }

    /// Runs all clients while `happens` runs.
    pub(crate) fn run<T>(&self, happens: impl FnOnce(&Self) -> T) -> T {
        thread::scope(|scope| {
            for n in 0..CLOSED_LOOP + THINKING {
                scope.spawn(move || {
                    if let Err(why) = self.live(n >= CLOSED_LOOP) {
                        self.noted().push(format!("client {n}, {why}"));
                    }
                });
            }
            let _over = Over(&self.over);
            happens(self)
        })
    }

    /// How many requests have been answered.
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether nothing has been lost so far.
    pub(crate) fn is_well(&self) -> bool {
        self.noted().is_empty()
    }

    /// Whether each connection has had a response.
    pub(crate) fn is_settled(&self) -> bool {
        self.newcomers.load(Ordering::Relaxed) == 0
    }

    /// The worker with this pid is about to die: requests in flight there may fail from now on.
    pub(crate) fn expect_death(&self, pid: u64) {
        self.toll().expect("workers may die").dead.insert(pid);
    }

    /// Whether it was expected that the worker with this pid dies.
    pub(crate) fn expects_death(&self, pid: u64) -> bool {
        self.toll().is_some_and(|toll| toll.dead.contains(&pid))
    }

    /// What deaths have cost. None: no worker may die.
    pub(crate) fn toll(&self) -> Option<MutexGuard<'_, Toll>> {
        self.toll.as_ref().map(|toll| toll.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Descriptions of all failures.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.noted().clone()
    }

    fn noted(&self) -> MutexGuard<'_, Vec<String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends requests on one connection, and on another one after each death that ends it.
    fn live(&self, thinks: bool) -> Result<(), String> {
        while !self.over.load(Ordering::Relaxed) {
            self.ask(thinks)?;
        }
        Ok(())
    }

    /// Sends one request after the other, or a few at once, on one connection.
    fn ask(&self, thinks: bool) -> Result<(), String> {
        let newcomer = Newcomer::of(&self.newcomers);
        let deaths = self.toll().map_or(0, |toll| toll.dead.len());
        let mut client = self.address.connect(PATIENCE).map_err(|error| format!("connect: {error}"))?;
        let (mut asked, mut newcomer, mut worker) = (0, Some(newcomer), None);
        while !self.over.load(Ordering::Relaxed) {
            if thinks {
                thread::sleep(up_to(THOUGHT));
            }
            let batch = Batch::draw(self.toll.is_some(), newcomer.is_some());
            let start = Instant::now();
            if let Err(error) = batch.send(&mut client)
                && self.toll.is_none()
            {
                return Err(format!("request {}: {error}", asked + 1));
            }
            for (n, request) in batch.requests.iter().enumerate() {
                asked += 1;
                let failed = |why: &str| format!("request {asked}, {request:.30?}, worker {worker:?}: {why}");
                let fate = Fate::of(&mut client).map_err(|why| failed(&why))?;
                if let Some(mut toll) = self.toll() {
                    toll.longest = toll.longest.max(start.elapsed());
                }
                if let Fate::Answered(response) = fate {
                    request.check(&response, asked).map_err(|why| failed(&why))?;
                    if let Request::Info = request {
                        worker = Some(response.number("pid"));
                    }
                    newcomer = None;
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let Some(mut toll) = self.toll() else { return Err(failed("no worker may die")) };
                // The worker that answered last is dead, but another may have taken the connection over
                // since. Before the first answer, one has died since the connection was opened.
                let may_fail = match worker {
                    Some(worker) => toll.dead.contains(&worker),
                    None => toll.dead.len() > deaths,
                };
                if !may_fail {
                    return Err(failed("its worker lives"));
                }
                match fate {
                    Fate::Told => toll.told += 1,
                    Fate::Cut => toll.cut += 1,
                    _ if batch.is_halved(n) => toll.halved += 1,
                    _ if worker.is_none() && self.is_accepted_apart => toll.unaccepted += 1,
                    _ => {
                        return Err(failed(&format!(
                            "its connection ended without a byte, {}",
                            batch.about(n)
                        )));
                    }
                }
                return Ok(());
            }
        }
        match client.has_more(Duration::ZERO) {
            true => Err(format!("its connection ends after {asked} requests")),
            false => Ok(()),
        }
    }
}

impl Fate {
    /// Reads what came of the request that was sent on `client` first. The error is something that no
    /// death of a worker excuses.
    pub(crate) fn of(client: &mut Client) -> Result<Self, String> {
        let mut response = match client.try_head() {
            Ok(head) => head,
            Err(Broken::Cut { end: End::Fin | End::Reset, unread }) => {
                return Ok(if unread.is_empty() { Self::Ended } else { Self::Cut });
            }
            Err(broken) => return Err(broken.to_string()),
        };
        match client.try_body(&mut response) {
            Ok(()) if !matches!(response.status, 500 | 503) => Ok(Self::Answered(response)),
            Ok(()) => match (response.announces_close(), client.rest(PATIENCE)) {
                (true, (bytes, End::Fin)) if bytes.is_empty() => Ok(Self::Told),
                (_, (bytes, end)) => Err(format!("{end:?} after {response:?} and {} bytes", bytes.len())),
            },
            Err(broken) if broken.is_cut_by_server() => Ok(Self::Cut),
            Err(broken) => Err(broken.to_string()),
        }
    }
}

/// Counts a connection until this is dropped.
struct Newcomer<'a>(&'a AtomicUsize);

impl<'a> Newcomer<'a> {
    fn of(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Newcomer<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends the clients when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Requests that are sent without waiting for responses, in one part or in two.
struct Batch {
    requests: Vec<Request>,
    /// Where the second part begins.
    parted: Option<usize>,
}

impl Batch {
    /// One time in twenty there is more than one request, and one time in ten there are two parts,
    /// parted anywhere. `slow`: some handlers take time. `first`: nothing was sent before.
    fn draw(slow: bool, first: bool) -> Self {
        let follows = iter::repeat_with(|| percent(5)).take_while(|follows| *follows);
        let draw = |_| if slow && percent(10) { Request::draw_slow() } else { Request::draw() };
        let mut requests: Vec<_> = iter::once(true).chain(follows).map(draw).collect();
        if slow && first {
            requests[0] = Request::Info;
        }
        let len = requests.iter().map(|request| request.bytes().len()).sum();
        let parted = percent(10).then(|| fastrand::usize(1..len));
        Self { requests, parted }
    }

    fn send(&self, client: &mut Client) -> io::Result<()> {
        let bytes: Vec<u8> = self.requests.iter().flat_map(Request::bytes).collect();
        let Some(at) = self.parted else { return client.try_send(bytes) };
        let (first, second) = bytes.split_at(at);
        client.try_send(first)?;
        thread::sleep(up_to(PAUSE));
        client.try_send(second)
    }

    /// Where the n-th request is.
    fn about(&self, n: usize) -> String {
        let lengths: Vec<_> = self.requests.iter().map(|request| request.bytes().len()).collect();
        format!("{n} of {lengths:?} bytes, parted at {:?}", self.parted)
    }

    /// Whether the head of the n-th request is in both parts.
    fn is_halved(&self, n: usize) -> bool {
        let start: usize = self.requests[..n].iter().map(|request| request.bytes().len()).sum();
        let end = start + self.requests[n].head().len();
        self.parted.is_some_and(|at| start < at && at < end)
    }
}

#[derive(Debug)]
enum Request {
    Info,
    Large,
    /// An echo of this body.
    Post(Vec<u8>),
    Sleep,
    /// A body in pieces with pauses in between.
    Stream,
}

impl Request {
    fn draw() -> Self {
        match fastrand::u8(..100) {
            0..2 => Self::Large,
            2..12 => Self::Post(
                iter::repeat_with(fastrand::alphanumeric)
                    .map(|c| c as u8)
                    .take(fastrand::usize(1..8192))
                    .collect(),
            ),
            _ => Self::Info,
        }
    }

    fn draw_slow() -> Self {
        if percent(50) { Self::Sleep } else { Self::Stream }
    }

    fn head(&self) -> String {
        let length = match self {
            Self::Post(body) => format!("Content-Length: {}\r\n", body.len()),
            _ => String::new(),
        };
        let line = match self {
            Self::Info => "GET /info".to_owned(),
            Self::Large => format!("GET /bytes?n={LARGE}"),
            Self::Post(_) => "POST /echo".to_owned(),
            Self::Sleep => "GET /sleep?ms=10".to_owned(),
            Self::Stream => "GET /stream?chunks=4&size=100&ms=3".to_owned(),
        };
        format!("{line} HTTP/1.1\r\nHost: test\r\n{length}\r\n")
    }

    fn bytes(&self) -> Vec<u8> {
        let body = if let Self::Post(body) = self { &body[..] } else { &[] };
        [self.head().as_bytes(), body].concat()
    }

    /// Whether `response` answers this request, as the n-th on its connection, without announcing
    /// close.
    fn check(&self, response: &Response, n: u64) -> Result<(), String> {
        let is_right = match self {
            Self::Info => response.number("connection_requests") == n,
            Self::Large => response.body.len() == LARGE,
            Self::Post(body) => response.body == *body,
            Self::Sleep => true,
            Self::Stream => response.body.len() == 400,
        };
        match response.status == 200 && is_right && !response.announces_close() {
            true => Ok(()),
            false => Err(format!("{response:?}")),
        }
    }
}

fn percent(n: u8) -> bool {
    fastrand::u8(..100) < n
}

fn up_to(limit: Duration) -> Duration {
    limit.mul_f64(fastrand::f64())
}
