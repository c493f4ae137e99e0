//! The meaning of an input of the target: the settings, the application's actions, and the events.
//!
//! ```text
//! kind u8 · policy u8 · zeroes u8 · flags u8 · length u16 of the commands · commands · events
//! ```
//!
//! [`Unstructured`] reads it from the front only, so that inputs can also be written: `build.rs`
//! does.

use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};

/// What drives the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Commands go to the connection directly, valid in its state or not.
    Direct,
    Blocking,
    /// A blocking handler that runs on the loop.
    Short,
    Future,
}

/// The settings of the whole script.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) kind: Kind,
    pub(crate) policy: u8,
    /// Which limits are zero, a bit each.
    pub(crate) zeroes: u8,
    /// The peer reads nothing until an event makes room.
    pub(crate) no_room: bool,
    /// At the end the peer is silent, instead of ending its side.
    pub(crate) silent: bool,
    /// Exchanges run in tasks of their own.
    pub(crate) in_turns: bool,
    /// The body of a request has a limit.
    pub(crate) small_bodies: bool,
    /// The connection begins with a header of the PROXY protocol.
    pub(crate) proxied: bool,
    /// Its hand-off fails: for now, or for good.
    pub(crate) hand_off_fails: bool,
    pub(crate) stays: bool,
}

/// The next action of the application.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Read(usize),
    /// The whole response, or its parts.
    Send(Answer),
    Begin(Answer),
    Interim(Answer),
    Upgrade(Answer),
    Write(usize),
    WriteShared(usize),
    Flush,
    Finish,
    /// With trailer fields.
    FinishWith,
    Fail,
    /// It drops the rest of the request's body.
    Discard,
    /// It waits for an event.
    Wait,
    /// Given to the connection directly, in any state.
    Refuse(u8),
    Abort,
    End,
    Handoff,
    Collect,
    GiveUp,
}

/// The head of a response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The length of the body. None if the head does not announce it.
    pub(crate) len: Option<usize>,
    /// Optional fields of the head, a bit each.
    pub(crate) fields: u8,
}

/// An event of the connection.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Bytes(Vec<u8>),
    Eof,
    Reset,
    /// The peer is gone, and every wait reports it.
    Gone,
    /// The peer reads so many bytes more.
    Room(usize),
    Time(Duration),
    Drain {
        reason: u8,
        grace: Duration,
        receiver: bool,
        lameduck: bool,
    },
    /// From now on a call moves at most so many bytes.
    Most(usize),
    /// An event that the application waits for happens.
    Open,
    /// A wait ends without a cause.
    Wake,
    /// The worker is frozen for so long. These bytes arrive meanwhile, and the wait does not report
    /// them.
    Freeze(Vec<u8>, Duration),
}

/// A parsed input.
#[derive(Clone, Debug)]
pub struct Script {
    pub(crate) settings: Settings,
    pub(crate) commands: Vec<Command>,
    pub(crate) events: Vec<Event>,
}

impl<'a> Arbitrary<'a> for Script {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let kind = [Kind::Direct, Kind::Blocking, Kind::Short, Kind::Future][usize::from(byte(input)? & 3)];
        let (policy, zeroes, flags) = (byte(input)?, byte(input)?, byte(input)?);
        let flag = |bit: u8| flags >> bit & 1 == 1;
        let settings = Settings {
            kind,
            policy,
            zeroes,
            no_room: flag(0),
            silent: flag(1),
            in_turns: flag(2),
            small_bodies: flag(3),
            hand_off_fails: flag(4),
            stays: flag(5),
            proxied: flag(6),
        };
        let length = usize::from(input.arbitrary::<u16>()?).min(input.len());
        let mut commands = Unstructured::new(input.bytes(length)?);
        Ok(Self { settings, commands: all(&mut commands, command), events: all(input, event) })
    }
}

/// The maximum of commands and of events in an input: more would only be slow.
const MOST: usize = 200;

fn all<T>(input: &mut Unstructured<'_>, read: fn(&mut Unstructured<'_>) -> Result<T>) -> Vec<T> {
    let mut all = Vec::new();
    while !input.is_empty() && all.len() < MOST {
        all.extend(read(input));
    }
    all
}

fn command(input: &mut Unstructured<'_>) -> Result<Command> {
    Ok(match byte(input)? % 20 {
        0 | 1 => Command::Read(size(input)?),
        2 => Command::Send(answer(input)?),
        3 => Command::Begin(answer(input)?),
        4 => Command::Upgrade(Answer { status: 101, ..answer(input)? }),
        5 => Command::Write(size(input)?),
        6 => Command::WriteShared(size(input)?),
        7 => Command::Flush,
        8 | 9 => Command::Finish,
        17 => Command::FinishWith,
        18 => Command::Interim(answer(input)?),
        10 => Command::Fail,
        11 => Command::Discard,
        12 => Command::Wait,
        13 => Command::Refuse(byte(input)?),
        14 => Command::Abort,
        15 => Command::Handoff,
        16 => Command::Collect,
        _ if byte(input)? % 2 == 0 => Command::GiveUp,
        _ => Command::End,
    })
}

fn answer(input: &mut Unstructured<'_>) -> Result<Answer> {
    const STATUSES: [u16; 12] = [200, 200, 200, 204, 205, 304, 404, 426, 500, 101, 103, 99];
    let status = STATUSES[usize::from(byte(input)?) % STATUSES.len()];
    let len = if byte(input)? % 2 == 0 { Some(size(input)?) } else { None };
    Ok(Answer { status, len, fields: byte(input)? })
}

fn event(input: &mut Unstructured<'_>) -> Result<Event> {
    Ok(match byte(input)? % 16 {
        0..=3 => {
            let len = usize::from(byte(input)?).min(input.len());
            Event::Bytes(input.bytes(len)?.to_vec())
        }
        4 => Event::Bytes(REQUESTS[usize::from(byte(input)?) % REQUESTS.len()].to_vec()),
        5 => Event::Bytes(vec![byte(input)?; size(input)?]),
        6 => Event::Eof,
        7 if byte(input)? % 2 == 0 => Event::Reset,
        7 => Event::Gone,
        8 | 9 => Event::Room(size(input)?),
        10 | 11 => Event::Time(Duration::from_millis(size(input)? as u64)),
        12 => {
            let (reason, grace, flags) = (byte(input)?, size(input)?, byte(input)?);
            Event::Drain {
                reason,
                grace: Duration::from_millis(grace as u64),
                receiver: flags & 1 == 1,
                lameduck: flags & 2 == 2,
            }
        }
        13 => Event::Most(size(input)?.max(1)),
        14 => Event::Open,
        _ if byte(input)? % 2 == 0 => Event::Wake,
        _ => {
            let time = Duration::from_millis(size(input)? as u64);
            let len = usize::from(byte(input)?).min(input.len());
            Event::Freeze(input.bytes(len)?.to_vec(), time)
        }
    })
}

/// A number of one byte, whose upper half grows with its square.
fn size(input: &mut Unstructured<'_>) -> Result<usize> {
    let n = usize::from(byte(input)?);
    Ok(if n < 128 { n } else { (n - 100) * (n - 100) * 4 })
}

fn byte(input: &mut Unstructured<'_>) -> Result<u8> {
    input.arbitrary()
}

/// Requests that a fuzzer would need long to find.
const REQUESTS: [&[u8]; 10] = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
];
