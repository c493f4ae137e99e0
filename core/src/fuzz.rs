//! Private parts of core for the fuzz targets. Not a public interface, and without any promise.

use crate::config::Limits;
use crate::http1::{BodyError, Decoded, Decoder, HeadLimits, Parsed, Refusal, RequestHead, parse_head};

/// The facts that a complete head states about its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, clippy::exhaustive_structs, reason = "these are RequestHead's, which documents them")]
pub struct Meaning {
    pub len: usize,
    pub framing: BodyFraming,
    pub keep_alive: bool,
    pub expects_continue: bool,
    pub offers_upgrade: bool,
}

/// How a request's body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, clippy::exhaustive_enums, reason = "a request's body ends in one of these ways")]
pub enum BodyFraming {
    Length(u64),
    Chunked,
}

/// Parses the head at the beginning of `bytes` into `head`. None while it is incomplete.
///
/// # Errors
///
/// The bytes cannot become a valid head.
pub fn head(bytes: &[u8], limits: &Limits, head: &mut RequestHead) -> Result<Option<Meaning>, Refusal> {
    let &Limits { head: size, request_line, fields, field_size, framing, .. } = limits;
    let limits = HeadLimits { head: size, request_line, fields, field_size, framing };
    match parse_head(bytes, limits, head) {
        Parsed::Refused(refusal) => Err(refusal),
        Parsed::Partial => Ok(None),
        Parsed::Complete(len) => {
            bytes[..len].clone_into(&mut head.buf);
            Ok(Some(Meaning {
                len,
                framing: head.framing.remaining().map_or(BodyFraming::Chunked, BodyFraming::Length),
                keep_alive: head.keep_alive,
                expects_continue: head.expects_continue,
                offers_upgrade: head.offers_upgrade,
            }))
        }
    }
}

/// Decodes a chunked body.
#[derive(Clone, Debug)]
pub struct Chunked(Decoder);

impl Default for Chunked {
    fn default() -> Self {
        Self(Decoder::chunked(Limits::default().framing))
    }
}

impl Chunked {
    /// Returns how many bytes at the beginning of `input` are framing, and how many after them are
    /// body, at most `max`.
    ///
    /// # Errors
    ///
    /// The framing is malformed.
    pub fn decode(&mut self, input: &[u8], max: usize) -> Result<(usize, usize), BodyError> {
        self.0.decode(input, max).map(|Decoded { skip, data }| (skip, data))
    }

    /// Whether the body is over.
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }

    /// Where the rest of the body ends within `input`, if it does.
    ///
    /// # Errors
    ///
    /// The framing is malformed.
    pub fn find_end(&self, input: &[u8]) -> Result<Option<usize>, BodyError> {
        self.0.find_end(input).map(|(end, _)| end)
    }
}
