//! How a message body ends (RFC 9112 §6).

use http::HeaderMap;

use super::chunked::{ChunkDecoder, Decoded};
use super::refusal::BodyError;

/// Decodes a body from its framing, one piece of input at a time.
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

impl Decoder {
    /// No body.
    pub(crate) fn none() -> Self {
        Self(Kind::Length(0))
    }

    /// A body of `n` bytes.
    pub(crate) fn length(n: u64) -> Self {
        Self(Kind::Length(n))
    }

    /// A chunked body, with at most `overhead` bytes of framing beyond one for each byte of the
    /// body.
    pub(crate) fn chunked(overhead: u32) -> Self {
        Self(Kind::Chunked(ChunkDecoder::new(overhead)))
    }

    /// Everything until the end of the connection.
    pub(crate) fn raw() -> Self {
        Self(Kind::Raw)
    }

    /// Decodes the beginning of `input`, at most `max` bytes of body. Both numbers are zero if more
    /// input is needed, or the body is over.
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

    /// Returns the trailer fields of a body that is over, once.
    pub(crate) fn take_trailers(&mut self) -> HeaderMap {
        match &mut self.0 {
            Kind::Chunked(chunks) if chunks.is_done() => chunks.take_trailers(),
            _ => HeaderMap::new(),
        }
    }

    /// How many bytes are still to come, if the framing says so.
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

    /// The same, and how many bytes of the body itself are within `input`. Distinguishes a
    /// malformed body.
    ///
    /// # Errors
    ///
    /// The framing is malformed.
    pub(crate) fn find_end(&self, input: &[u8]) -> Result<(Option<usize>, usize), BodyError> {
        let mut ahead = BufferedBody::of(self);
        Ok((ahead.find_end(input)?, ahead.len()))
    }
}

/// Finds the end of a body in a growing buffer from which nothing is removed. Each byte is decoded
/// once, however few arrive at a time.
#[derive(Clone, Debug)]
pub(crate) struct BufferedBody {
    decoder: Decoder,
    /// Bytes that were decoded.
    seen: usize,
    /// Bytes of the body itself among them.
    len: usize,
}

impl BufferedBody {
    /// Continues from `decoder`, which has not decoded any byte of the buffer.
    pub(crate) fn of(decoder: &Decoder) -> Self {
        Self { decoder: decoder.clone(), seen: 0, len: 0 }
    }

    /// Where the body ends within `input`, if it does. `input` begins with the bytes of earlier
    /// calls.
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

#[cfg(test)]
mod tests;
