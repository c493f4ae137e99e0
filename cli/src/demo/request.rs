//! What a request asks of the demo: path, method and parameters, nothing of connections.

use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

/// The longest response in bytes, without its framing.
const LONGEST: u64 = 1 << 30;

/// The longest pause in milliseconds.
const PAUSE: RangeInclusive<u64> = 0..=600_000;

/// What `/upgrade` says to those who do not ask for one.
pub(super) const UPGRADE_WANTED: &str =
    "send Connection: upgrade and Upgrade: with any protocol; its bytes are echoed\n";

/// The protocol that the client prefers, of those that an `Upgrade` field lists (RFC 9110 §7.8).
pub(super) fn preferred(upgrade: &[u8]) -> Option<&[u8]> {
    upgrade.split(|&b| b == b',').map(<[u8]>::trim_ascii).find(|token| !token.is_empty())
}

/// A request that can be answered.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Request {
    Hello,
    Echo,
    Sleep(Duration),
    Block(Duration),
    Stream { chunks: u64, size: u64, pause: Duration },
    Bytes(u64),
    Events,
    Info,
    Headers,
    Status { code: u16, body: bool },
    Upgrade,
}

/// One that cannot.
#[derive(PartialEq, Eq, Debug, Error)]
pub(super) enum Refusal {
    #[error("there is nothing here")]
    Path,
    #[error("allowed here: {allow}")]
    Method { allow: &'static str },
    #[error("{name} is {value:?}; allowed: a whole number from {from} to {to}")]
    Parameter { name: &'static str, value: String, from: u64, to: u64 },
}

impl Refusal {
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Path => 404,
            Self::Method { .. } => 405,
            Self::Parameter { .. } => 400,
        }
    }
}

impl Request {
    pub(super) fn of(method: &str, path: &str, query: &str) -> Result<Self, Refusal> {
        let number = |name, default, allowed| number(query, name, default, allowed);
        let pause = |default| number("ms", default, PAUSE).map(Duration::from_millis);
        let request = match path {
            "/" => Self::Hello,
            "/echo" => Self::Echo,
            "/sleep" => Self::Sleep(pause(1000)?),
            "/block" => Self::Block(pause(1000)?),
            "/stream" => {
                let chunks = number("chunks", 10, 0..=1_000_000)?;
                let size = number("size", 1024, 1..=LONGEST / chunks.max(1))?;
                Self::Stream { chunks, size, pause: pause(100)? }
            }
            "/bytes" => Self::Bytes(number("n", 1024, 0..=LONGEST)?),
            "/events" => Self::Events,
            "/info" => Self::Info,
            "/headers" => Self::Headers,
            "/status" => Self::Status {
                code: number("code", 200, 200..=599)? as u16,
                body: number("body", 0, 0..=1)? == 1,
            },
            "/upgrade" => Self::Upgrade,
            _ => return Err(Refusal::Path),
        };
        match (&request, method) {
            (Self::Echo, "POST") => Ok(request),
            (Self::Echo, _) => Err(Refusal::Method { allow: "POST" }),
            (_, "GET" | "HEAD") => Ok(request),
            _ => Err(Refusal::Method { allow: "GET, HEAD" }),
        }
    }

    /// Whether the answer is computed at once and small.
    pub(super) fn is_short(&self) -> bool {
        matches!(self, Self::Hello | Self::Info | Self::Headers | Self::Status { .. })
    }
}

/// The parameter `name` of `query`.
fn number(
    query: &str,
    name: &'static str,
    default: u64,
    allowed: RangeInclusive<u64>,
) -> Result<u64, Refusal> {
    let Some((_, value)) = query.split('&').filter_map(|p| p.split_once('=')).find(|(n, _)| *n == name)
    else {
        return Ok(default);
    };
    value.parse().ok().filter(|n| allowed.contains(n)).ok_or_else(|| {
        let (from, to) = allowed.into_inner();
        Refusal::Parameter { name, value: value.to_owned(), from, to }
    })
}

#[cfg(test)]
mod tests;
