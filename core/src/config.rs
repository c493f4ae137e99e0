//! Validated configuration that the connection machine reads. Parsing and ranges live in the cli's table.

use std::time::Duration;

use crate::draw::scatter;
use crate::handoff::Peer;
use crate::proxy::ProxyProtocol;
use crate::trust::Trusted;

/// What one connection may take, in time and in size.
///
/// Every field is independent of the others; [`Default`] gives the documented defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// How long a connection may be idle between requests. Default 5 s; zero closes after each response.
    pub keep_alive: Duration,
    /// How long a request head may take from its first byte, never restarted (D12). Default 10 s; zero: no limit.
    pub header_timeout: Duration,
    /// How long a request body may make no progress while the application wants it. Default 30 s; zero: no limit.
    pub body_timeout: Duration,
    /// How long a response may make no progress while bytes of it are queued. Default 30 s; zero: no limit.
    pub write_timeout: Duration,
    /// How long a closed connection is read from and discarded (D7). Default 2 s; zero closes at once.
    pub linger: Duration,
    /// Bytes a second that a request body has to arrive with on average while it is waited for, beyond its timeout. Default 240;
    /// zero: no such limit.
    pub body_rate: u64,
    /// Bytes a second that a response has to be taken with on average while bytes of it are queued, beyond its timeout.
    /// Default 240; zero: no such limit.
    pub write_rate: u64,
    /// How long a handler may take from being called to the end of its response. Default zero: no limit.
    pub request_timeout: Duration,
    /// Bytes of a request head in all: its lines with their endings, and empty lines before it. Default 32 KiB, at most
    /// [`READ_BUFFER_MAX`]; past it 431.
    pub head: usize,
    /// Bytes of a request line, without its line ending. Default 8190; past it 414.
    pub request_line: usize,
    /// Fields of a request. Default 100; past it 431.
    pub fields: usize,
    /// Bytes of one field line. Default 8190; past it 431.
    pub field_size: usize,
    /// Bytes of a request body. Default 0: no limit; past it 413.
    pub body: u64,
    /// Bytes that the chunk extensions, the trailer section and the padding of a chunked body may take beyond the bytes of the
    /// body itself (RFC 9112 §7.1). Default 16 KiB; past it 400.
    pub framing: u32,
    /// Bytes of a request body that nobody reads which are read and thrown away to keep a connection usable (RFC 9112 §9.3).
    /// Default 64 KiB; past it the connection is closed instead.
    pub unread_body: u64,
    /// Bytes that a lingering connection discards before it is closed all the same (D7). Default 4 MiB; zero: no limit but that
    /// of its time.
    pub linger_size: u64,
    /// Requests that a connection may have answered in one turn before others get theirs, at least 1. Default 16.
    pub pipeline_budget: u32,
    /// Who stands in front of the server, and what is believed of what they say.
    pub front: Front,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            linger: Duration::from_secs(2),
            body_rate: 240,
            write_rate: 240,
            request_timeout: Duration::ZERO,
            head: 32 * 1024,
            request_line: 8190,
            fields: 100,
            field_size: 8190,
            body: 0,
            framing: 16 * 1024,
            unread_body: 64 * 1024,
            linger_size: 4 * 1024 * 1024,
            pipeline_budget: 16,
            front: Front::default(),
        }
    }
}

/// Who stands in front of the server, and what is believed of what they say of clients.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Front {
    /// The header that every connection must begin with. Default [`ProxyProtocol::Off`].
    pub proxy_protocol: ProxyProtocol,
    /// Who may send such a header; all others are refused. Default `None`: those that are believed in `forwarded`.
    pub proxy_allow_from: Option<Trusted>,
    /// Whose fields about forwarding are believed. Default: this host.
    pub forwarded: Trusted,
    /// What becomes of fields with an underscore in their names. Default [`Underscores::Drop`].
    pub underscores: Underscores,
}

/// What becomes of fields with an underscore in their names. Applications that know fields by the names of CGI variables
/// (RFC 3875 §4.1.18) cannot tell `X_User` from `X-User`, which a proxy may have set or removed. None of them means
/// anything to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_enums, reason = "a field is kept, left out, or its request refused")]
pub enum Underscores {
    /// They are left out.
    #[default]
    Drop,
    /// The request is refused.
    Refuse,
    /// The application sees them, whatever it takes them for.
    Keep,
}

impl Front {
    /// Whether `peer` may send a header of the PROXY protocol.
    pub(crate) fn may_proxy(&self, peer: Peer) -> bool {
        self.proxy_allow_from.as_ref().unwrap_or(&self.forwarded).has(peer)
    }
}

impl Default for Front {
    fn default() -> Self {
        Self {
            proxy_protocol: ProxyProtocol::Off,
            proxy_allow_from: None,
            forwarded: Trusted::local(),
            underscores: Underscores::Drop,
        }
    }
}

/// How much is added to a number by chance, so that what happens after it does not happen everywhere at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "a number is absolute or relative")]
pub enum Jitter {
    /// At most this.
    Count(u64),
    /// At most this part of the number, in percent, rounded up.
    Percent(u8),
}

impl Jitter {
    /// `number` and some more, which follows from `seed` as if it were chance.
    pub fn scattered(self, number: u64, seed: u64) -> u64 {
        number.saturating_add(self.some(number, scatter(seed)))
    }

    /// What is added to `number`: as much of the most as `draw` is of all it may be.
    pub(crate) fn some(self, number: u64, draw: u32) -> u64 {
        let most = match self {
            Self::Count(most) => most.into(),
            Self::Percent(percent) => (u128::from(number) * u128::from(percent)).div_ceil(100),
        };
        (((most + 1) * u128::from(draw)) >> 32).try_into().unwrap_or(u64::MAX)
    }
}

impl Default for Jitter {
    /// 10 %.
    fn default() -> Self {
        Self::Percent(10)
    }
}

/// Bytes of a response that may be queued and unsent before the application has to wait.
pub const HIGH_WATER: usize = 64 * 1024;

/// Bytes a read buffer has at first.
pub const READ_BUFFER: usize = 8 * 1024;

/// Bytes a read buffer may grow to; no request head can be larger, whatever the other limits say.
pub const READ_BUFFER_MAX: usize = 64 * 1024;

/// How long a connection lingers at most once the drain's deadline has passed (D10): a little less than the 0.5 s
/// after which the kernel ends the process, so that lingering alone never looks like work that was cut.
pub const LINGER_AT_DEADLINE: Duration = Duration::from_millis(400);
