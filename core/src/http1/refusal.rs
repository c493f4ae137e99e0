//! Faults of a peer, and the status that answers each.

use thiserror::Error;

/// Why the rest of a request body cannot be read. Never a short success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The peer ended its side within the body.
    #[error("the client ended the connection within the request body")]
    Truncated,
    /// The chunked coding is malformed (RFC 9112 §7.1).
    #[error("malformed chunked coding: {0}")]
    Chunked(&'static str),
    /// The body is larger than the limit.
    #[error("request body is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// No bytes arrived for the body timeout.
    #[error("the request body made no progress for its time")]
    TimedOut,
    /// The connection ended for another reason, such as the drain's deadline.
    #[error("the connection has ended")]
    Closed,
}

impl BodyError {
    /// The refusal that the peer receives. None if the peer is gone.
    pub(crate) fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Chunked(_) => Some(Refusal::BadChunked),
            Self::TooLarge { .. } => Some(Refusal::BodyTooLarge),
            Self::TimedOut => Some(Refusal::BodyTimeout),
            Self::Truncated | Self::Closed => None,
        }
    }
}

/// A fault of a peer before there is a complete request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no header of the PROXY protocol, and there has to be one. The response shows an
    /// operator that only one side is configured for the protocol.
    #[error("missing or malformed PROXY header")]
    BadProxyHeader,
    /// The peer may not send such a header.
    #[error("peer not allowed to send a PROXY header")]
    ForeignProxy,
    /// Not a request line (RFC 9112 §3).
    #[error("malformed request line")]
    BadRequestLine,
    /// Not a field line (RFC 9112 §5).
    #[error("malformed field line")]
    BadField,
    /// Host is missing, repeated or malformed (RFC 9112 §3.2).
    #[error("host field missing, repeated or malformed")]
    BadHost,
    /// A field name with an underscore, which the settings refuse.
    #[error("field name with an underscore")]
    Underscore,
    /// The forwarding fields are malformed or contradictory.
    #[error("malformed or contradictory forwarding fields")]
    BadForwarding,
    /// Content-Length is not a number, or there are two (RFC 9112 §6.3).
    #[error("malformed or repeated content-length")]
    BadContentLength,
    /// Transfer-Encoding with Content-Length or in HTTP/1.0 (RFC 9112 §6.1), malformed, or with
    /// chunked not as its last coding (§6.3).
    #[error("ambiguous message framing")]
    AmbiguousFraming,
    /// A transfer coding other than chunked before it (RFC 9112 §6.1).
    #[error("transfer coding not implemented")]
    UnknownTransferCoding,
    /// An expectation other than 100-continue (RFC 9110 §10.1.1).
    #[error("expectation not known")]
    UnknownExpectation,
    /// The method is longer than the limit of a request line (RFC 9112 §3).
    #[error("method not implemented")]
    UnknownMethod,
    /// The target's scheme is not `http`, and this connection serves no other (RFC 9110 §7.4).
    #[error("not the server for this target")]
    Misdirected,
    /// A major version other than 1 (RFC 9110 §15.6.6).
    #[error("version not supported")]
    UnknownVersion,
    /// The request line is over its limit (RFC 9112 §3).
    #[error("request line too long")]
    UriTooLong,
    /// A field, their number or the whole head is over its limit (RFC 6585 §5).
    #[error("request header fields too large")]
    FieldsTooLarge,
    /// The body is over its limit (RFC 9110 §15.5.14).
    #[error("request body too large")]
    BodyTooLarge,
    /// The chunked coding of the body is malformed (RFC 9112 §7.1).
    #[error("malformed chunked coding")]
    BadChunked,
    /// The head exceeded its timeout (D12).
    #[error("request head timed out")]
    HeadTimeout,
    /// The body made no progress within its timeout.
    #[error("request body timed out")]
    BodyTimeout,
}

impl Refusal {
    /// The status of the response to a refused peer. No other code chooses one.
    pub fn status(self) -> u16 {
        match self {
            Self::BadProxyHeader
            | Self::BadRequestLine
            | Self::BadField
            | Self::BadHost
            | Self::Underscore
            | Self::BadForwarding
            | Self::BadContentLength
            | Self::AmbiguousFraming
            | Self::BadChunked => 400,
            Self::ForeignProxy => 403,
            Self::HeadTimeout | Self::BodyTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::UriTooLong => 414,
            Self::UnknownExpectation => 417,
            Self::Misdirected => 421,
            Self::FieldsTooLarge => 431,
            Self::UnknownMethod | Self::UnknownTransferCoding => 501,
            Self::UnknownVersion => 505,
        }
    }
}

#[cfg(test)]
mod tests;
