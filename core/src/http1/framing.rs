//! How a message body ends (RFC 9112 §6), and what a peer may do wrong.

use http::HeaderMap;
use thiserror::Error;

use super::chunked::ChunkDecoder;

/// Takes a body out of its framing, a piece of input at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoder(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Bytes still to come.
    Length(u64),
    Chunked(ChunkDecoder),
    /// No framing: until the peer ends its side.
    Raw,
}

/// What a decoder made of its input: the first `skip` bytes are framing, the next `data` bytes are body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Decoded {
    pub(crate) skip: usize,
    pub(crate) data: usize,
}

impl Decoder {
    /// No body.
    pub(crate) fn none() -> Self {
        Self(Kind::Length(0))
    }

    /// A body of `n` bytes.
    pub(crate) fn length(n: u64) -> Self {
        Self(Kind::Length(n))
    }

    /// A chunked body, with at most `overhead` bytes that are not the body's own beyond so many that are.
    pub(crate) fn chunked(overhead: u32) -> Self {
        Self(Kind::Chunked(ChunkDecoder::new(overhead)))
    }

    /// Everything until the end of the connection.
    pub(crate) fn raw() -> Self {
        Self(Kind::Raw)
    }

    /// Decodes the beginning of `input`, at most `max` bytes of body. Both numbers zero: it needs more input,
    /// or the body is over.
    ///
    /// # Errors
    ///
    /// The framing is malformed.
    pub(crate) fn decode(&mut self, input: &[u8], max: usize) -> Result<Decoded, BodyError> {
        match &mut self.0 {
            Kind::Length(left) => {
                let data = input.len().min(max).min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data as u64;
                Ok(Decoded { skip: 0, data })
            }
            Kind::Chunked(chunks) => chunks.decode(input, max),
            Kind::Raw => Ok(Decoded { skip: 0, data: input.len().min(max) }),
        }
    }

    /// Whether the body is over.
    pub(crate) fn is_done(&self) -> bool {
        match &self.0 {
            Kind::Length(left) => *left == 0,
            Kind::Chunked(chunks) => chunks.is_done(),
            Kind::Raw => false,
        }
    }

    /// Gives the trailer fields of a body that is over, once.
    pub(crate) fn take_trailers(&mut self) -> HeaderMap {
        match &mut self.0 {
            Kind::Chunked(chunks) if chunks.is_done() => chunks.take_trailers(),
            _ => HeaderMap::new(),
        }
    }

    /// How many bytes are still to come, if the framing tells.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match &self.0 {
            Kind::Length(left) => Some(*left),
            Kind::Chunked(chunks) => chunks.is_done().then_some(0),
            Kind::Raw => None,
        }
    }

    /// Where the rest of the body ends within `input`, if it does.
    pub(crate) fn end_within(&self, input: &[u8]) -> Option<usize> {
        self.find_end(input).ok()?.0
    }

    /// The same, told apart from a body that will never end, and how many bytes of the body itself are within `input`.
    ///
    /// # Errors
    ///
    /// The framing is malformed.
    pub(crate) fn find_end(&self, input: &[u8]) -> Result<(Option<usize>, usize), BodyError> {
        let mut ahead = Ahead::of(self);
        Ok((ahead.find_end(input)?, ahead.len()))
    }
}

/// What is known of a body in a buffer that grows and from which nothing is taken: each byte is looked at once, however few
/// arrive at a time.
#[derive(Clone, Debug)]
pub(crate) struct Ahead {
    decoder: Decoder,
    /// Bytes that were looked at.
    seen: usize,
    /// Those of the body itself among them.
    len: usize,
}

impl Ahead {
    /// Ahead of `decoder`, which has not been given anything of what is in the buffer.
    pub(crate) fn of(decoder: &Decoder) -> Self {
        Self { decoder: decoder.clone(), seen: 0, len: 0 }
    }

    /// Where the body ends within `input`, if it does. That begins with what was given before.
    ///
    /// # Errors
    ///
    /// The framing is malformed.
    pub(crate) fn find_end(&mut self, input: &[u8]) -> Result<Option<usize>, BodyError> {
        while !self.decoder.is_done() {
            let Decoded { skip, data } = self.decoder.decode(&input[self.seen..], usize::MAX)?;
            if skip + data == 0 {
                return Ok(None);
            }
            self.seen += skip + data;
            self.len += data;
        }
        Ok(Some(self.seen))
    }

    /// Bytes of the body itself that were found.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Why the rest of a request body cannot be had. Never a short success.
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
    /// Nothing arrived for the body timeout.
    #[error("the request body made no progress for its time")]
    TimedOut,
    /// The connection ended for another reason, such as the drain's deadline.
    #[error("the connection has ended")]
    Closed,
}

impl BodyError {
    /// What the peer is told about it; nothing if it has gone.
    pub(crate) fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Chunked(_) => Some(Refusal::BadChunked),
            Self::TooLarge { .. } => Some(Refusal::BodyTooLarge),
            Self::TimedOut => Some(Refusal::BodyTimeout),
            Self::Truncated | Self::Closed => None,
        }
    }
}

/// What a peer did wrong before there was a request to speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No header of the PROXY protocol where there has to be one. Whoever has set that up on one side only reads of it
    /// where the answer ends up, which is why there is one.
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
    /// A field name with an underscore, where those are refused.
    #[error("field name with an underscore")]
    Underscore,
    /// What proxies say of the client is malformed or contradictory.
    #[error("malformed or contradictory forwarding fields")]
    BadForwarding,
    /// Content-Length is not a number, or there are two (RFC 9112 §6.3).
    #[error("malformed or repeated content-length")]
    BadContentLength,
    /// Transfer-Encoding with Content-Length or in HTTP/1.0 (RFC 9112 §6.1), malformed, or with chunked elsewhere than as
    /// its last coding (§6.3).
    #[error("ambiguous message framing")]
    AmbiguousFraming,
    /// A transfer coding other than chunked before it (RFC 9112 §6.1).
    #[error("transfer coding not implemented")]
    UnknownTransferCoding,
    /// An expectation other than of a 100 (RFC 9110 §10.1.1).
    #[error("expectation not known")]
    UnknownExpectation,
    /// The method is longer than any request line may be (RFC 9112 §3).
    #[error("method not implemented")]
    UnknownMethod,
    /// The target's scheme is not `http`: what it names is not to be had on this connection (RFC 9110 §7.4).
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
    /// The head took longer than it may (D12).
    #[error("request head timed out")]
    HeadTimeout,
    /// The body made no progress for its time.
    #[error("request body timed out")]
    BodyTimeout,
}

impl Refusal {
    /// The status that a refused peer is told. No other place chooses one.
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
