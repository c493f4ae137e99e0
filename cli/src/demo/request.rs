//! Parses requests to the demo: path, method and parameters.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// The longest response in bytes, without its framing.
const LONGEST: u64 = 1 << 30;

/// The longest pause in milliseconds.
const PAUSE: RangeInclusive<u64> = 0..=600_000;

/// The response of `/upgrade` to a request without `Upgrade`.
pub(super) const UPGRADE_WANTED: &str =
    "send Connection: upgrade and Upgrade: with any protocol; its bytes are echoed\n";

/// The first protocol in an `Upgrade` field, which the client prefers (RFC 9110 §7.8).
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
    Stream {
        chunks: u64,
        size: u64,
        pause: Duration,
    },
    Bytes(u64),
    Events,
    Info,
    Headers,
    Status {
        code: u16,
        body: bool,
    },
    Upgrade,
    /// The methods that are allowed (RFC 9110 §9.3.7).
    Options {
        allow: &'static str,
    },
}

/// A request that is refused.
#[derive(PartialEq, Eq, Debug, Error)]
pub(super) enum Refusal {
    #[error("not found")]
    Path,
    #[error("the path contains a control character or is not UTF-8")]
    Text,
    #[error("unknown method")]
    Unknown,
    #[error("method not allowed; allowed: {allow}")]
    Method { allow: &'static str },
    #[error("{name} is {value:?}; allowed: a whole number from {from} to {to}")]
    Parameter { name: &'static str, value: String, from: u64, to: u64 },
}

impl Refusal {
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Text | Self::Parameter { .. } => 400,
            Self::Path => 404,
            Self::Method { .. } => 405,
            Self::Unknown => 501,
        }
    }
}

/// The methods that every path knows, even if it does not allow them (RFC 9110 §9.1): those of RFC
/// 9110 §9.3 except CONNECT, which an origin server does not use, and that of RFC 5789.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"];

impl Request {
    pub(super) fn of(method: &str, path: &str, query: &str) -> Result<Self, Refusal> {
        if !METHODS.contains(&method) {
            return Err(Refusal::Unknown);
        }
        let path = decode(path)?;
        let request = Self::at(&path, query);
        let allow = match (&*path, &request) {
            ("*", _) => "GET, HEAD, POST, OPTIONS",
            (_, Err(Refusal::Path)) => return request,
            (_, Ok(Self::Echo)) => "POST, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        };
        match method {
            "OPTIONS" => Ok(Self::Options { allow }),
            _ if allow.split(',').any(|allowed| allowed.trim_start() == method) => request,
            _ => Err(Refusal::Method { allow }),
        }
    }

    /// The request for `path`, whatever its method.
    fn at(path: &str, query: &str) -> Result<Self, Refusal> {
        let number = |name, default, allowed| number(query, name, default, allowed);
        let pause = |default| number("ms", default, PAUSE).map(Duration::from_millis);
        Ok(match path {
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
        })
    }

    /// Whether the response begins before the request's body has ended.
    pub(super) fn streams_body(&self) -> bool {
        matches!(self, Self::Echo)
    }

    /// Whether the response is small and computed at once.
    pub(super) fn is_short(&self) -> bool {
        matches!(self, Self::Hello | Self::Info | Self::Headers | Self::Status { .. } | Self::Options { .. })
    }
}

/// The field that a response with status `code` must have (RFC 9110 §11.6.1, §11.7.1, §15.5.6,
/// §15.5.22).
pub(super) fn required_field(code: u16) -> Option<(&'static str, &'static str)> {
    Some(match code {
        401 => ("www-authenticate", "Basic realm=\"demo\""),
        405 => ("allow", "GET, HEAD, OPTIONS"),
        407 => ("proxy-authenticate", "Basic realm=\"demo\""),
        426 => ("upgrade", "echo"),
        _ => return None,
    })
}

/// Decodes the escapes in `text` (RFC 3986 §2.1). Refuses control characters and invalid UTF-8.
fn decode(text: &str) -> Result<Cow<'_, str>, Refusal> {
    let text = match text.contains('%') {
        true => percent_decode_str(text).decode_utf8().map_err(|_| Refusal::Text)?,
        false => Cow::Borrowed(text),
    };
    if text.contains(char::is_control) { Err(Refusal::Text) } else { Ok(text) }
}

/// The parameter `name` of `query`.
fn number(
    query: &str,
    name: &'static str,
    default: u64,
    allowed: RangeInclusive<u64>,
) -> Result<u64, Refusal> {
    let mut parameters = query.split('&').filter_map(|parameter| parameter.split_once('='));
    let Some((_, value)) = parameters.find(|(n, _)| decode(n).is_ok_and(|n| n == name)) else {
        return Ok(default);
    };
    let value = percent_decode_str(value).decode_utf8_lossy();
    value.parse().ok().filter(|n| allowed.contains(n)).ok_or_else(|| {
        let (from, to) = allowed.into_inner();
        Refusal::Parameter { name, value: value.into_owned(), from, to }
    })
}

#[cfg(test)]
mod tests;
