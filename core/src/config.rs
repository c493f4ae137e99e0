//! Validated configuration that the connection machine reads. Parsing and ranges live in the cli's
//! table.

use std::time::Duration;

use crate::draw::scatter;
use crate::peer::Peer;
use crate::proxy::ProxyProtocol;
use crate::trust::Trusted;

/// Limits of one connection, in time and in size.
///
/// Every field is independent of the others; [`Default`] gives the documented defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// How long a connection may be idle between requests. Default 5 s; zero closes after each
    /// response.
    pub keep_alive: Duration,
    /// How long a request head may take from its first byte, never restarted (D12). Default 10 s;
    /// zero: no limit.
    pub header_timeout: Duration,
    /// How long a request body may make no progress while the application waits for it. Default 30
    /// s; zero: no limit.
    pub body_timeout: Duration,
    /// How long a response may make no progress while bytes of it are queued. Default 30 s; zero:
    /// no limit.
    pub write_timeout: Duration,
    /// How long a closed connection is read from, and the bytes discarded (D7). Default 2 s; zero
    /// closes at once.
    pub linger: Duration,
    /// The average rate, in bytes a second, at which a request body has to arrive while the
    /// application waits for it, beyond its timeout. Default 240; zero: no such limit.
    pub body_rate: u64,
    /// The average rate, in bytes a second, at which a client has to read a response while bytes of
    /// it are queued, beyond its timeout. Default 240; zero: no such limit.
    pub write_rate: u64,
    /// How long a handler may take from its call to the end of its response. Default zero: no
    /// limit.
    pub request_timeout: Duration,
    /// Whether the end of a client's sending side cancels its running request. Otherwise only the
    /// handler is told. Default false.
    pub cancel_on_half_close: bool,
    /// Bytes of a whole request head: its lines with their endings, and empty lines before it.
    /// Default 32 KiB, at most [`READ_BUFFER_MAX`]; above it 431.
    pub head: usize,
    /// Bytes of a request line, without its line ending. Default 8190; above it 414.
    pub request_line: usize,
    /// Number of fields of a request. Default 100; above it 431.
    pub fields: usize,
    /// Bytes of one field line. Default 8190; above it 431.
    pub field_size: usize,
    /// Bytes of a request body. Default 0: no limit; above it 413.
    pub body: u64,
    /// Bytes that the chunk extensions, the trailer section and the padding of a chunked body may
    /// take beyond the bytes of the body itself (RFC 9112 §7.1). Default 16 KiB; above it 400.
    pub framing: u32,
    /// Bytes of an unread request body that are read and discarded so that the connection can be
    /// reused (RFC 9112 §9.3). Default 64 KiB; above it the connection is closed instead.
    pub unread_body: u64,
    /// Bytes that a lingering connection discards before it is closed even so (D7). Default zero:
    /// no limit but the time of `linger`.
    pub linger_size: u64,
    /// Requests of one connection that may be answered before other connections get a turn, at
    /// least 1. Default 16.
    pub pipeline_budget: u32,
    /// Whether interim responses of the application, such as 103, are sent. Default false: they are
    /// dropped, because widely used clients take one for the final response. `100 Continue` is sent
    /// in any case.
    pub interim_responses: bool,
    /// The proxies in front of the server, and what is trusted of their messages.
    pub proxies: ProxyTrust,
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
            cancel_on_half_close: false,
            head: 32 * 1024,
            request_line: 8190,
            fields: 100,
            field_size: 8190,
            body: 0,
            framing: 16 * 1024,
            unread_body: 64 * 1024,
            linger_size: 0,
            pipeline_budget: 16,
            interim_responses: false,
            proxies: ProxyTrust::default(),
        }
    }
}

/// The proxies in front of the server, and what is trusted of their messages about clients.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ProxyTrust {
    /// The header that every connection must begin with. Default [`ProxyProtocol::Off`].
    pub proxy_protocol: ProxyProtocol,
    /// The peers that may send such a header. All others are refused. Default `None`: the peers of
    /// `forwarded`.
    pub proxy_allow_from: Option<Trusted>,
    /// The peers whose forwarding fields are trusted. Default: this host.
    pub forwarded: Trusted,
    /// The treatment of fields with an underscore in their names. Default [`Underscores::Drop`].
    pub underscores: Underscores,
}

/// The treatment of fields with an underscore in their names. Applications that read fields as CGI
/// variables (RFC 3875 §4.1.18) cannot tell `X_User` from `X-User`, which a proxy may have set or
/// removed. To the server itself no such field has a meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_enums, reason = "a field is kept, left out, or its request refused")]
pub enum Underscores {
    /// They are dropped.
    #[default]
    Drop,
    /// The request is refused.
    Refuse,
    /// The application sees them.
    Keep,
}

impl ProxyTrust {
    /// Whether `peer` may send a header of the PROXY protocol.
    pub(crate) fn may_proxy(&self, peer: Peer) -> bool {
        self.proxy_allow_from.as_ref().unwrap_or(&self.forwarded).has(peer)
    }
}

impl Default for ProxyTrust {
    fn default() -> Self {
        Self {
            proxy_protocol: ProxyProtocol::Off,
            proxy_allow_from: None,
            forwarded: Trusted::local(),
            underscores: Underscores::Drop,
        }
    }
}

/// A random addition to a number, so that events that depend on the number do not happen everywhere
/// at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "a number is absolute or relative")]
pub enum Jitter {
    /// At most this number.
    Count(u64),
    /// At most this part of the number, in percent, rounded up.
    Percent(u8),
}

impl Jitter {
    /// `number` plus a pseudo-random addition derived from `seed`.
    pub fn scattered(self, number: u64, seed: u64) -> u64 {
        number.saturating_add(self.some(number, scatter(seed)))
    }

    /// The addition to `number`: the fraction `draw` / 2³² of the maximum.
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

/// The initial size of a read buffer, in bytes.
pub const READ_BUFFER: usize = 8 * 1024;

/// The maximum size of a read buffer, in bytes. No request head can be larger, whatever the other
/// limits say.
pub const READ_BUFFER_MAX: usize = 64 * 1024;

/// How long a connection lingers at most once the drain's deadline has passed (D10): a little less
/// than the 0.5 s after which the kernel ends the process, so that lingering alone is never
/// reported as work that was cut.
pub const LINGER_AT_DEADLINE: Duration = Duration::from_millis(400);
