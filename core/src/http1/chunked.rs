//! The chunked transfer coding (RFC 9112 §7.1), both ways.
//!
//! Only CRLF ends a line. The form of extensions is checked, and they are dropped. Trailers are
//! checked and kept. Both are limited together with all other padding, so that a body cannot be
//! endless framing: beyond the limit, each such byte needs an earlier byte of the body. An error is
//! final: no bytes after it are taken for a body.

use http::HeaderMap;

use super::refusal::BodyError;
use super::trailers;

/// How many trailer fields one body may have.
const TRAILERS_MAX: u32 = 100;

/// A step of decoding: the first `skip` bytes of the input are framing, the next `data` bytes are
/// body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Decoded {
    pub(crate) skip: usize,
    pub(crate) data: usize,
}

/// Decodes a chunked body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChunkDecoder {
    state: State,
    /// Bytes that extensions, trailers and padding may still take.
    left: u32,
    /// The maximum of `left`.
    most: u32,
    /// The lines of the trailer section.
    trailers: Vec<u8>,
    trailer_count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    SizeStart,
    /// Within a size.
    Size(u64),
    /// After the size of a chunk, within its extensions.
    Extension(u64, Extension),
    /// The line feed after a size.
    SizeLf(u64),
    /// Within the data of a chunk, this many bytes before its end.
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a trailer line.
    TrailerStart,
    /// Within the name of a trailer field.
    TrailerName,
    /// Within its value.
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
    Failed(&'static str),
}

/// The position of a byte in `*( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )`
/// (RFC 9112 §7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// In white space that only `;` may follow.
    Gap,
    /// After `;`.
    NameStart,
    Name,
    /// In white space after a name.
    NameGap,
    /// After `=`.
    ValueStart,
    Value,
    Quoted,
    Escaped,
    /// After a quoted value.
    Unquoted,
}

impl ChunkDecoder {
    pub(crate) fn new(most: u32) -> Self {
        Self { state: State::SizeStart, left: most, most, trailers: Vec::new(), trailer_count: 0 }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Returns the trailer fields, once.
    pub(crate) fn take_trailers(&mut self) -> HeaderMap {
        trailers::read(&std::mem::take(&mut self.trailers))
    }

    /// See [`Decoder::decode`](super::Decoder::decode).
    pub(crate) fn decode(&mut self, input: &[u8], max: usize) -> Result<Decoded, BodyError> {
        let mut skip = 0;
        while skip < input.len() {
            match self.state {
                State::Data(left) => {
                    let data = (input.len() - skip).min(max).min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - data as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                    self.left =
                        self.left.saturating_add(u32::try_from(data).unwrap_or(u32::MAX)).min(self.most);
                    return Ok(Decoded { skip, data });
                }
                State::Done => break,
                state => match self.framing(state, input[skip]) {
                    Ok(next) => {
                        if state.is_trailer() {
                            self.trailers.push(input[skip]);
                        }
                        self.state = next;
                    }
                    Err(what) => {
                        self.state = State::Failed(what);
                        return Err(BodyError::Chunked(what));
                    }
                },
            }
            skip += 1;
        }
        Ok(Decoded { skip, data: 0 })
    }

    /// The state after a byte of framing.
    fn framing(&mut self, state: State, byte: u8) -> Result<State, &'static str> {
        Ok(match (state, byte) {
            (State::SizeStart, _) => match (byte as char).to_digit(16) {
                Some(digit) => State::Size(u64::from(digit)),
                None => return Err("a chunk size does not begin with a hexadecimal digit"),
            },
            (State::Size(size), b'\r') => State::SizeLf(size),
            (State::Extension(size, extension), b'\r') if extension.may_end() => State::SizeLf(size),
            (State::Size(size), _) if byte.is_ascii_hexdigit() => {
                // Leading zeros are padding, and so limited.
                if size == 0 {
                    self.spend()?;
                }
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                match size.checked_mul(16) {
                    Some(size) => State::Size(size + digit),
                    None => return Err("a chunk size does not fit into 64 bits"),
                }
            }
            (State::Size(size), b';') => State::Extension(size, Extension::NameStart),
            // White space is allowed before an extension only, and padding as well.
            (State::Size(size), b' ' | b'\t') => {
                self.spend()?;
                State::Extension(size, Extension::Gap)
            }
            (State::Size(_), _) => return Err("a chunk size is followed by neither extension nor CRLF"),
            (State::Extension(size, extension), _) => {
                self.spend()?;
                State::Extension(size, extension.next(byte).ok_or("a malformed chunk extension")?)
            }
            // A size of zero is the last chunk, which the trailer section follows.
            (State::SizeLf(0), b'\n') => State::TrailerStart,
            (State::SizeLf(size), b'\n') => State::Data(size),
            (State::SizeLf(_), _) => return Err("a chunk size line ends with CR but no LF"),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::SizeStart,
            (State::DataCr | State::DataLf, _) => return Err("chunk data is not followed by CRLF"),
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => {
                self.spend()?;
                State::TrailerName
            }
            (State::TrailerName, b':') => {
                self.trailer_count += 1;
                if self.trailer_count > TRAILERS_MAX {
                    return Err("there are more than 100 trailer fields");
                }
                State::TrailerValue
            }
            (State::TrailerStart | State::TrailerName, _) => return Err("a trailer field has no valid name"),
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) => {
                self.spend()?;
                if is_control(byte) {
                    return Err("a control character in a trailer field");
                }
                State::TrailerValue
            }
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            (State::TrailerLf | State::EndLf, _) => return Err("a trailer line ends with CR but no LF"),
            // An error is final: the rest of the input may be an attempt at smuggling.
            (State::Failed(what), _) => return Err(what),
            (State::Data(_) | State::Done, _) => state,
        })
    }

    fn spend(&mut self) -> Result<(), &'static str> {
        self.left =
            self.left.checked_sub(1).ok_or("extensions, trailers and padding are over their limit")?;
        Ok(())
    }
}

impl State {
    /// Whether the next byte belongs to a line of the trailer section, or ends one.
    fn is_trailer(self) -> bool {
        matches!(self, Self::TrailerStart | Self::TrailerName | Self::TrailerValue | Self::TrailerLf)
    }
}

impl Extension {
    fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Gap | Self::Name | Self::NameGap | Self::Value | Self::Unquoted, b';') => Self::NameStart,
            (Self::Name | Self::NameGap, b'=') => Self::ValueStart,
            (Self::Gap | Self::Value | Self::Unquoted, b' ' | b'\t') => Self::Gap,
            (Self::Name | Self::NameGap, b' ' | b'\t') => Self::NameGap,
            (Self::NameStart | Self::ValueStart, b' ' | b'\t') => self,
            (Self::NameStart | Self::Name, _) if is_token(byte) => Self::Name,
            (Self::ValueStart | Self::Value, _) if is_token(byte) => Self::Value,
            (Self::ValueStart, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::Unquoted,
            (Self::Quoted, b'\\') => Self::Escaped,
            (Self::Quoted | Self::Escaped, _) if !is_control(byte) => Self::Quoted,
            _ => return None,
        })
    }

    /// Whether a line may end here.
    fn may_end(self) -> bool {
        matches!(self, Self::Name | Self::Value | Self::Unquoted)
    }
}

fn is_control(byte: u8) -> bool {
    byte != b'\t' && byte.is_ascii_control()
}

/// RFC 9110 §5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            table[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let mut others = b"!#$%&'*+-.^_`|~".as_slice();
        while let [byte, rest @ ..] = others {
            table[*byte as usize] = true;
            others = rest;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

/// The line before the data of a chunk, encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkHeader {
    text: [u8; 18],
    start: usize,
}

impl ChunkHeader {
    /// The header of a chunk of `len` bytes, which must not be zero, since that would end the body.
    pub(crate) fn new(mut len: usize) -> Self {
        debug_assert!(len > 0);
        let mut text = [0; 18];
        text[16..].copy_from_slice(b"\r\n");
        let mut start = 16;
        loop {
            start -= 1;
            text[start] = b"0123456789abcdef"[len & 15];
            len >>= 4;
            if len == 0 {
                return Self { text, start };
            }
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

#[cfg(test)]
mod tests;
