//! The part of a schedule that is drawn from the seed before it begins: settings, clients and
//! faults.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use remuda_arbiter::{ArbiterConfig, Bind};
use remuda_core::config::Limits;
use remuda_core::order::PolicyId;
use remuda_core::shutdown::{CloseIdle, Finish, Grace, Handoff, Reason, ShutdownPolicy, Spread};
use remuda_core::worker::Policies;

use super::application::{Task, What, content};
use super::monitor::ms;

/// The settings of a schedule.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) setup: Setup,
    /// The results of loads, the last one first.
    pub(super) loads: Vec<LoadResult>,
    /// The settings of new arbiters, the last one first.
    pub(super) new_arbiters: Vec<Setup>,
    /// Each slot has listeners of its own.
    pub(super) per_slot: bool,
    /// There is an admin listener.
    pub(super) has_helper: bool,
    pub(super) threads: usize,
    pub(super) blocking: bool,
    pub(super) inline: bool,
    pub(super) limits: Limits,
    pub(super) graceful: Duration,
    pub(super) timeout: Duration,
    pub(super) boot_timeout: Duration,
    pub(super) lameduck: Duration,
    /// Requests after which a worker is replaced, and the largest random addition; 0: never.
    pub(super) max_requests: (u64, u64),
    pub(super) recycle_concurrency: u16,
    /// The largest age of a worker; zero: no limit.
    pub(super) max_lifetime: Duration,
    /// The largest memory of a worker; 0: no limit.
    pub(super) max_rss: u64,
    /// The policies that hand off.
    hands_off: Vec<PolicyId>,
    pub(super) policies: Policies,
    /// The initial part of a drain in which a response may leave its connection open.
    pub(super) undecided: Duration,
    /// Workers have keepers.
    pub(super) rescue: bool,
    /// The kernel counts the bytes of a connection, as TCP does.
    pub(super) is_counted: bool,
    pub(super) clients: Vec<Behaviour>,
    pub(super) faults: Vec<(Duration, Fault)>,
}

/// The settings of a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Setup {
    pub(super) workers: u16,
    /// The addresses that are bound, one bit each.
    pub(super) binds: u8,
    /// Its first worker fails to boot. A new arbiter with it exits at once.
    pub(super) fails: bool,
    /// The boot of its first worker hangs, and so does a new arbiter with it.
    pub(super) hangs: bool,
}

/// The result of a load.
#[derive(Clone, Copy, Debug)]
pub(super) enum LoadResult {
    /// Settings that do not parse.
    Broken,
    Setup(Setup),
}

/// The behaviour of one client.
#[derive(Debug)]
pub(super) struct Behaviour {
    pub(super) arrives: Duration,
    /// The address that it connects to.
    pub(super) address: u8,
    /// The time that its bytes take to arrive.
    pub(super) latency: Duration,
    pub(super) requests: Vec<SentRequest>,
    /// All bytes that it sends.
    pub(super) bytes: Vec<u8>,
    pub(super) acts: Vec<Act>,
    /// The largest number of unread response bytes.
    pub(super) window: usize,
    /// The largest read, and the pause between reads; none: reads everything at once.
    pub(super) slow_reads: Option<(usize, Duration)>,
    /// The time from the server's end of the connection to its own; none: never.
    pub(super) leaves: Option<Duration>,
    /// It continues to send after the server's end.
    pub(super) keeps_sending: bool,
}

/// One request of a client.
#[derive(Clone, Debug)]
pub(super) struct SentRequest {
    pub(super) task: Task,
    /// The bytes of the request, within all bytes that the client sends.
    pub(super) range: Range<u64>,
    pub(super) http_1_0: bool,
    /// It has `Connection: close`.
    pub(super) closes: bool,
    pub(super) has_body: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    Wait(Duration),
    /// Sends this range of its bytes.
    Send(Range<usize>),
    /// Waits until this number of responses was received.
    Await(usize),
    /// Ends its sending side.
    HalfClose,
    /// Resets the connection.
    Reset,
    /// Closes its socket.
    Close,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// A signal to an arbiter.
    Signal(i32),
    /// A signal to all arbiters. Later ones are stopped as well.
    Stop(i32),
    /// A command of an operator.
    Operator(OperatorCommand),
    /// A signal to every process of the server, as from Ctrl-C.
    Group(i32),
    /// A signal to one worker.
    Worker(i32),
    /// kill -9 of a worker.
    Kill,
    /// The loop of a worker hangs for this time.
    Hang(Duration),
    /// No process runs for this time.
    Freeze(Duration),
    /// The next boot fails with this status, or hangs.
    BadBoot(Option<u8>),
    /// Forks fail for this time.
    NoForks(Duration),
    /// An arbiter is killed.
    Orphan,
}

/// A command of an operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OperatorCommand {
    Reload,
    Recycle { all: bool },
    Scale(u16),
    Upgrade,
}

/// The numbers of signals are those of Linux.
pub(super) mod signals {
    pub(crate) const HUP: i32 = 1;
    pub(crate) const INT: i32 = 2;
    pub(crate) const QUIT: i32 = 3;
    pub(crate) const ABRT: i32 = 6;
    pub(crate) const KILL: i32 = 9;
    pub(crate) const USR1: i32 = 10;
    pub(crate) const USR2: i32 = 12;
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
        let (mut policies, mut undecided, mut hands_off) = (Policies::default(), Duration::ZERO, Vec::new());
        for id in [PolicyId::Stop, PolicyId::Reload, PolicyId::Recycle] {
            let (mut policy, window) = policy(rng);
            if rng.u8(0..8) < if id == PolicyId::Stop { 1 } else { 4 } {
                hands_off.push(id);
                policy = Arc::new(Handoff(policy));
            }
            policies.set(id, policy);
            undecided = undecided.max(window);
        }
        let clients = rng.u32(1..7);
        let stop = ms(rng.u64(100..4000));
        let blocking = rng.bool();
        if !blocking && rng.u8(0..3) == 0 {
            limits.request_timeout = ms(rng.u64(20..1500));
        }
        let setup = Setup { fails: false, hangs: false, ..Setup::draw(rng) };
        Self {
            setup,
            loads: (0..rng.u8(0..4)).map(|_| LoadResult::draw(rng)).collect(),
            new_arbiters: (0..rng.u8(0..3)).map(|_| Setup::draw(rng)).collect(),
            per_slot: rng.u8(0..4) == 0,
            has_helper: rng.u8(0..4) == 0,
            threads: rng.usize(1..4),
            blocking,
            inline: rng.bool(),
            limits,
            graceful,
            timeout: ms(rng.u64(1000..4000)),
            boot_timeout: ms(rng.u64(1000..3000)),
            lameduck: if rng.u8(0..3) == 0 { ms(rng.u64(1..2000)) } else { Duration::ZERO },
            max_requests: if rng.bool() { (rng.u64(1..5), rng.u64(0..3)) } else { (0, 0) },
            recycle_concurrency: rng.u16(1..3),
            max_lifetime: if rng.u8(0..6) == 0 { ms(rng.u64(300..3000)) } else { Duration::ZERO },
            max_rss: if rng.u8(0..6) == 0 { rng.u64(5..60) } else { 0 },
            hands_off,
            policies,
            undecided,
            rescue: rng.u8(0..4) > 0,
            is_counted: rng.bool(),
            clients: (0..clients).map(|conn| Behaviour::draw(conn, stop, rng)).collect(),
            faults: faults(stop, rng),
        }
    }
}

impl Script {
    /// The part of a configuration that no reload changes.
    pub(super) fn config(&self) -> ArbiterConfig {
        let mut config = ArbiterConfig::default();
        config.boot_timeout = self.boot_timeout;
        config.worker.graceful_timeout = self.graceful;
        config.worker.timeout = self.timeout;
        config.lameduck = self.lameduck;
        config.recycle_concurrency = self.recycle_concurrency;
        config.max_lifetime = self.max_lifetime;
        config.max_rss = self.max_rss;
        config.reuse_port = self.per_slot;
        config.admin = self.has_helper.then(|| Bind::Unix("admin".into()));
        config
    }

    /// Whether connections move when workers drain for that.
    pub(super) fn hands_off(&self, reason: Reason) -> bool {
        self.hands_off.contains(&PolicyId::of(reason))
    }
}

impl Setup {
    fn draw(rng: &mut Rng) -> Self {
        let binds = if rng.bool() { 1 } else { 3 };
        Self { workers: rng.u16(1..4), binds, fails: rng.u8(0..8) == 0, hangs: rng.u8(0..12) == 0 }
    }
}

impl LoadResult {
    fn draw(rng: &mut Rng) -> Self {
        if rng.u8(0..6) == 0 { Self::Broken } else { Self::Setup(Setup::draw(rng)) }
    }
}

/// A policy, and the initial part of a drain in which it may not announce close.
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
    use signals::{HUP, INT, QUIT, TERM, TTIN, TTOU, USR1, USR2};
    let mut faults = Vec::new();
    // Signals and commands of operators, mostly while the server serves.
    for _ in 0..rng.u32(0..4) {
        let at = ms(rng.u64(0..4000)).min(stop + ms(rng.u64(0..1000)));
        let fault = match rng.u8(0..16) {
            0..5 => Fault::Signal(HUP),
            5 | 6 => Fault::Operator(OperatorCommand::Reload),
            7 | 8 => Fault::Signal(USR2),
            9 => Fault::Operator(OperatorCommand::Upgrade),
            10 | 11 => Fault::Operator(OperatorCommand::Recycle { all: rng.bool() }),
            12 => Fault::Operator(OperatorCommand::Scale(rng.u16(1..5))),
            _ => Fault::Signal(USR1),
        };
        faults.push((at, fault));
    }
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
        1 => (Fault::Stop(QUIT), false),
        2 => (Fault::Group(INT), true),
        3 => (Fault::Group(TERM), true),
        4 | 5 => (Fault::Stop(INT), true),
        _ => (Fault::Stop(TERM), true),
    };
    faults.push((stop, end));
    if hurried && rng.u8(0..4) == 0 {
        let again = [TERM, INT, QUIT][rng.usize(0..3)];
        faults.push((stop + ms(rng.u64(0..3000)), Fault::Stop(again)));
    }
    if hurried && rng.u8(0..16) == 0 {
        faults.push((stop + ms(rng.u64(0..1000)), Fault::Orphan));
    }
    faults
}

impl Behaviour {
    fn draw(conn: u32, stop: Duration, rng: &mut Rng) -> Self {
        let (mut requests, mut bytes, mut acts) = (Vec::new(), Vec::new(), Vec::new());
        let count = rng.u32(0..6);
        while (requests.len() as u32) < count {
            let burst = if rng.u8(0..3) == 0 { rng.u32(1..5) } else { 1 };
            for _ in 0..burst {
                let id = conn * 16 + requests.len() as u32;
                if id % 16 < 15 {
                    requests.push(SentRequest::draw(id, &mut bytes, rng));
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
            // Leaves before the end.
            acts.truncate(rng.usize(0..=acts.len()));
            acts.push([Act::HalfClose, Act::Close, Act::Reset][rng.usize(0..3)].clone());
        }
        let slow_reads = (rng.u8(0..5) == 0).then(|| (rng.usize(1..8000), ms(rng.u64(1..200))));
        Self {
            arrives: stop.mul_f64(rng.f64() * 1.02),
            address: u8::from(rng.u8(0..4) == 0),
            latency: Duration::from_micros(rng.u64(10..20_000)),
            requests,
            bytes,
            acts,
            window: if rng.u8(0..4) == 0 { rng.usize(1..5000) } else { 200_000 },
            slow_reads,
            leaves: (rng.u8(0..8) > 0).then(|| ms(rng.u64(0..200))),
            keeps_sending: rng.u8(0..8) == 0,
        }
    }
}

/// A pause: mostly short, sometimes longer than any limit.
fn pause(rng: &mut Rng) -> Duration {
    match rng.u8(0..8) {
        0..4 => Duration::ZERO,
        4 | 5 => ms(rng.u64(0..50)),
        6 => ms(rng.u64(0..600)),
        _ => ms(rng.u64(0..4000)),
    }
}

/// Sends the rest of `end` bytes, in one piece or several.
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

impl SentRequest {
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
