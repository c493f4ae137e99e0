//! What a seed makes of a schedule: the server's settings, its clients and what goes wrong.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use remuda_core::config::Limits;
use remuda_core::order::PolicyId;
use remuda_core::shutdown::{CloseIdle, Finish, Grace, ShutdownPolicy, Spread};
use remuda_core::worker::Policies;

use super::application::{Task, What, content};
use super::ground::ms;

/// What is drawn before anything happens.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) workers: u16,
    pub(super) threads: usize,
    pub(super) blocking: bool,
    pub(super) inline: bool,
    pub(super) limits: Limits,
    pub(super) graceful: Duration,
    pub(super) timeout: Duration,
    pub(super) boot_timeout: Duration,
    pub(super) lameduck: Duration,
    /// Requests after which a worker is to be replaced, and how many more by chance; 0: never.
    pub(super) max_requests: (u64, u64),
    pub(super) recycle_concurrency: u16,
    pub(super) policies: Policies,
    /// For so long of a drain a response may leave its connection open.
    pub(super) undecided: Duration,
    pub(super) clients: Vec<Plot>,
    pub(super) faults: Vec<(Duration, Fault)>,
}

/// What one client is going to do.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) arrives: Duration,
    /// How long what it sends is on its way.
    pub(super) latency: Duration,
    pub(super) requests: Vec<Wanted>,
    /// All that it sends.
    pub(super) bytes: Vec<u8>,
    pub(super) acts: Vec<Act>,
    /// Bytes of responses that wait for it at most.
    pub(super) window: usize,
    /// It takes so many bytes at a time, with pauses; none: all at once.
    pub(super) sips: Option<(usize, Duration)>,
    /// How long after the server's end it ends its side; none: never.
    pub(super) leaves: Option<Duration>,
    /// It goes on sending after that end.
    pub(super) rude: bool,
}

/// One request of a client.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) task: Task,
    /// Where in what it sends the request is.
    pub(super) range: Range<u64>,
    pub(super) http_1_0: bool,
    /// It asks for the connection to be closed.
    pub(super) closes: bool,
    pub(super) has_body: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    Wait(Duration),
    /// Sends bytes of what there is to send.
    Send(Range<usize>),
    /// Waits for so many responses in all.
    Await(usize),
    /// Ends its side.
    HalfClose,
    /// Is gone without a word.
    Reset,
    /// Closes its socket.
    Close,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// A signal to the arbiter.
    Signal(i32),
    /// A signal to every process of the server, as Ctrl-C sends it.
    Group(i32),
    /// A signal to one worker.
    Worker(i32),
    /// kill -9 of a worker.
    Kill,
    /// The loop of a worker does not turn for so long.
    Hang(Duration),
    /// Nobody runs for so long.
    Freeze(Duration),
    /// The next boots fail with this status, or do not come to an end.
    BadBoot(Option<u8>),
    /// Forks fail for so long.
    NoForks(Duration),
    /// The arbiter dies.
    Orphan,
}

/// The numbers of signals are those of Linux.
pub(super) mod signals {
    pub(crate) const INT: i32 = 2;
    pub(crate) const QUIT: i32 = 3;
    pub(crate) const ABRT: i32 = 6;
    pub(crate) const KILL: i32 = 9;
    pub(crate) const TERM: i32 = 15;
    pub(crate) const TTIN: i32 = 21;
    pub(crate) const TTOU: i32 = 22;
}

impl Script {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let mut limits = Limits::default();
        limits.keep_alive = if rng.u8(..) < 16 { Duration::ZERO } else { ms(rng.u64(100..3000)) };
        limits.header_timeout = ms(rng.u64(300..3000));
        limits.body_timeout = ms(rng.u64(300..3000));
        limits.write_timeout = ms(rng.u64(300..3000));
        limits.linger = if rng.u8(..) < 8 { Duration::ZERO } else { ms(rng.u64(100..2000)) };
        let graceful = ms(rng.u64(50..5000));
        let (mut policies, mut undecided) = (Policies::default(), Duration::ZERO);
        for id in [PolicyId::Stop, PolicyId::Reload, PolicyId::Recycle] {
            let (policy, window) = policy(rng);
            policies.set(id, policy);
            undecided = undecided.max(window);
        }
        let clients = rng.u32(1..7);
        let stop = ms(rng.u64(100..4000));
        Self {
            workers: rng.u16(1..4),
            threads: rng.usize(1..4),
            blocking: rng.bool(),
            inline: rng.bool(),
            limits,
            graceful,
            timeout: ms(rng.u64(1000..4000)),
            boot_timeout: ms(rng.u64(1000..3000)),
            lameduck: if rng.u8(0..3) == 0 { ms(rng.u64(1..2000)) } else { Duration::ZERO },
            max_requests: if rng.bool() { (rng.u64(1..5), rng.u64(0..3)) } else { (0, 0) },
            recycle_concurrency: rng.u16(1..3),
            policies,
            undecided,
            clients: (0..clients).map(|conn| Plot::draw(conn, stop, rng)).collect(),
            faults: faults(stop, rng),
        }
    }
}

/// A policy, and for how long of a drain it may leave it open whether a response announces close.
fn policy(rng: &mut Rng) -> (Arc<dyn ShutdownPolicy>, Duration) {
    let time = ms(rng.u64(0..2000));
    match rng.u8(0..8) {
        0 | 1 => (Arc::new(CloseIdle), Duration::ZERO),
        2 | 3 => (Arc::new(Grace(time)), Duration::ZERO),
        4 => (Arc::new(Spread(time)), time),
        _ => (Arc::new(Finish), Duration::ZERO),
    }
}

fn faults(stop: Duration, rng: &mut Rng) -> Vec<(Duration, Fault)> {
    use signals::{INT, QUIT, TERM, TTIN, TTOU};
    let mut faults = Vec::new();
    for _ in 0..rng.u32(0..4) {
        let at = ms(rng.u64(0..4000));
        let fault = match rng.u8(0..16) {
            0 | 1 => Fault::Kill,
            2 | 3 => Fault::Hang(ms(rng.u64(1..8000))),
            4 | 5 => Fault::Freeze(ms(rng.u64(1..8000))),
            6 => Fault::BadBoot(Some(rng.u8(3..5))),
            7 => Fault::BadBoot(None),
            8 => Fault::NoForks(ms(rng.u64(1..1000))),
            9 | 10 => Fault::Worker(if rng.bool() { TERM } else { INT }),
            11 | 12 => Fault::Signal(TTIN),
            13 | 14 => Fault::Signal(TTOU),
            _ => Fault::Worker(QUIT),
        };
        faults.push((at, fault));
    }
    let (end, hurried) = match rng.u8(0..16) {
        0 => (Fault::Orphan, false),
        1 => (Fault::Signal(QUIT), false),
        2 => (Fault::Group(INT), true),
        3 => (Fault::Group(TERM), true),
        4 | 5 => (Fault::Signal(INT), true),
        _ => (Fault::Signal(TERM), true),
    };
    faults.push((stop, end));
    if hurried && rng.u8(0..4) == 0 {
        let again = [TERM, INT, QUIT][rng.usize(0..3)];
        faults.push((stop + ms(rng.u64(0..3000)), Fault::Signal(again)));
    }
    if hurried && rng.u8(0..16) == 0 {
        faults.push((stop + ms(rng.u64(0..1000)), Fault::Orphan));
    }
    faults
}

impl Plot {
    fn draw(conn: u32, stop: Duration, rng: &mut Rng) -> Self {
        let (mut requests, mut bytes, mut acts) = (Vec::new(), Vec::new(), Vec::new());
        let count = rng.u32(0..6);
        while (requests.len() as u32) < count {
            let burst = if rng.u8(0..3) == 0 { rng.u32(1..5) } else { 1 };
            for _ in 0..burst {
                let id = conn * 16 + requests.len() as u32;
                if id % 16 < 15 {
                    requests.push(Wanted::draw(id, &mut bytes, rng));
                }
            }
            acts.push(Act::Wait(pause(rng)));
            send(&mut acts, bytes.len(), rng);
            if rng.u8(0..8) > 0 {
                acts.push(Act::Await(requests.len()));
            }
        }
        acts.push(Act::Wait(pause(rng)));
        match rng.u8(0..6) {
            0 => acts.push(Act::HalfClose),
            1 => acts.push(Act::Close),
            2 => acts.push(Act::Reset),
            _ => {}
        }
        if rng.u8(0..6) == 0 {
            // Or leaves in the middle of it all.
            acts.truncate(rng.usize(0..=acts.len()));
            acts.push([Act::HalfClose, Act::Close, Act::Reset][rng.usize(0..3)].clone());
        }
        let sips = (rng.u8(0..5) == 0).then(|| (rng.usize(1..8000), ms(rng.u64(1..200))));
        Self {
            arrives: stop.mul_f64(rng.f64() * 1.02),
            latency: Duration::from_micros(rng.u64(10..20_000)),
            requests,
            bytes,
            acts,
            window: if rng.u8(0..4) == 0 { rng.usize(1..5000) } else { 200_000 },
            sips,
            leaves: (rng.u8(0..8) > 0).then(|| ms(rng.u64(0..200))),
            rude: rng.u8(0..8) == 0,
        }
    }
}

/// Mostly short, at times longer than any limit.
fn pause(rng: &mut Rng) -> Duration {
    match rng.u8(0..8) {
        0..4 => Duration::ZERO,
        4 | 5 => ms(rng.u64(0..50)),
        6 => ms(rng.u64(0..600)),
        _ => ms(rng.u64(0..4000)),
    }
}

/// Sends what is not sent yet of `end` bytes, in one piece or several.
fn send(acts: &mut Vec<Act>, end: usize, rng: &mut Rng) {
    let sent = acts.iter().rev().find_map(|act| match act {
        Act::Send(range) => Some(range.end),
        _ => None,
    });
    let mut at = sent.unwrap_or(0);
    let split = rng.u8(0..2) == 0;
    let most = [3, 40, 400, 4000][rng.usize(0..4)];
    let mut cuts = 0;
    while at < end {
        let left = end - at;
        let len = if split && cuts < 12 { rng.usize(1..=left.min(most)) } else { left };
        acts.push(Act::Send(at..at + len));
        at += len;
        cuts += 1;
        if at < end {
            acts.push(Act::Wait(if rng.u8(0..6) == 0 { pause(rng) } else { ms(rng.u64(0..10)) }));
        }
    }
}

impl Wanted {
    fn draw(id: u32, bytes: &mut Vec<u8>, rng: &mut Rng) -> Self {
        let what = match rng.u8(0..32) {
            0..14 => What::Answer,
            14..18 => What::Ignore,
            18..25 => What::Stream,
            25..28 => What::Events,
            28 => What::Never,
            29 | 30 => What::Panic,
            _ => What::Break,
        };
        let late = [0, 0, 50, 1500][rng.usize(0..4)];
        let late = rng.u64(0..=late);
        let size = match rng.u8(0..8) {
            0 => 0,
            1..6 => rng.usize(0..300),
            6 => rng.usize(0..20_000),
            _ => rng.usize(0..150_000),
        };
        let pieces = size.div_ceil(super::application::PIECE).max(1) as u64;
        let millis = match what {
            What::Stream | What::Break => late / pieces,
            What::Events => late / 4 + 5,
            _ => late,
        };
        let task = Task { id, what, ms: millis, size };
        let body = match rng.u8(0..8) {
            0..5 => 0,
            5 | 6 => rng.usize(1..3000),
            _ => rng.usize(1..100_000),
        };
        let http_1_0 = rng.u8(0..12) == 0;
        let chunked = !http_1_0 && rng.bool();
        let closes = rng.u8(0..12) == 0;
        let start = bytes.len() as u64;
        let method = if body > 0 { "POST" } else { "GET" };
        let version = if http_1_0 { "1.0" } else { "1.1" };
        let mut head = format!("{method} {} HTTP/{version}\r\nHost: simulated\r\n", task.path());
        if closes {
            head.push_str("Connection: close\r\n");
        } else if http_1_0 && rng.bool() {
            head.push_str("Connection: keep-alive\r\n");
        }
        if body > 0 && rng.u8(0..6) == 0 && !http_1_0 {
            head.push_str("Expect: 100-continue\r\n");
        }
        if body > 0 && chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
        } else if body > 0 {
            head.push_str(&format!("Content-Length: {body}\r\n"));
        }
        head.push_str("\r\n");
        bytes.extend_from_slice(head.as_bytes());
        let content = content(id, true, 0, body);
        if body > 0 && chunked {
            let mut rest = &content[..];
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(rng.usize(1..=rest.len()));
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
                rest = after;
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        } else {
            bytes.extend_from_slice(&content);
        }
        Self { task, range: start..bytes.len() as u64, http_1_0, closes, has_body: body > 0 }
    }
}
