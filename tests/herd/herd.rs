//! Clients that have one connection each, and record everything that happens to it.

use std::iter;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use remuda_conformance::client::{Address, Client, PATIENCE, Response};

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
    failures: Mutex<Vec<String>>,
}

impl Herd {
    pub(crate) fn new(address: &Address) -> Self {
        Self {
            address: address.clone(),
            over: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
            failures: Mutex::default(),
        }
    }

    /// Runs all clients while `happens` runs.
    pub(crate) fn run<T>(&self, happens: impl FnOnce(&Self) -> T) -> T {
        thread::scope(|scope| {
            for n in 0..CLOSED_LOOP + THINKING {
                scope.spawn(move || {
                    if let Err(why) = self.ask(n >= CLOSED_LOOP) {
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

    /// Descriptions of all failures.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.noted().clone()
    }

    fn noted(&self) -> MutexGuard<'_, Vec<String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one request after the other, or a few at once, on one connection.
    fn ask(&self, thinks: bool) -> Result<(), String> {
        let mut client = self.address.connect(PATIENCE).map_err(|error| format!("connect: {error}"))?;
        let mut asked = 0;
        while !self.over.load(Ordering::Relaxed) {
            if thinks {
                thread::sleep(up_to(THOUGHT));
            }
            let follows = iter::repeat_with(|| percent(5)).take_while(|follows| *follows);
            let batch: Vec<_> = iter::once(true).chain(follows).map(|_| Request::draw()).collect();
            send(&mut client, &batch).map_err(|error| format!("request {}: {error}", asked + 1))?;
            for request in batch {
                asked += 1;
                let answer = client.try_response().map_err(|broken| broken.to_string());
                answer
                    .and_then(|response| request.check(&response, asked))
                    .map_err(|why| format!("request {asked}, {request:.30?}: {why}"))?;
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
        match client.has_more(Duration::ZERO) {
            true => Err(format!("its connection ends after {asked} requests")),
            false => Ok(()),
        }
    }
}

/// Ends the clients when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends requests in one part or, one time in ten, in two, cut anywhere.
fn send(client: &mut Client, batch: &[Request]) -> std::io::Result<()> {
    let bytes: Vec<u8> = batch.iter().flat_map(Request::bytes).collect();
    if !percent(10) {
        return client.try_send(bytes);
    }
    let (first, second) = bytes.split_at(fastrand::usize(1..bytes.len()));
    client.try_send(first)?;
    thread::sleep(up_to(PAUSE));
    client.try_send(second)
}

#[derive(Debug)]
enum Request {
    Info,
    Large,
    /// An echo of this body.
    Post(Vec<u8>),
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

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Info => b"GET /info HTTP/1.1\r\nHost: test\r\n\r\n".to_vec(),
            Self::Large => format!("GET /bytes?n={LARGE} HTTP/1.1\r\nHost: test\r\n\r\n").into_bytes(),
            Self::Post(body) => {
                let head =
                    format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len());
                [head.as_bytes(), body].concat()
            }
        }
    }

    /// Whether `response` answers this request, as the n-th on its connection, without announcing
    /// close.
    fn check(&self, response: &Response, n: u64) -> Result<(), String> {
        let is_right = match self {
            Self::Info => response.number("connection_requests") == n,
            Self::Large => response.body.len() == LARGE,
            Self::Post(body) => response.body == *body,
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
