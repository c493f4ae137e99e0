//! HTTP/1.1 as pure functions on bytes (RFC 9112): heads, framing, chunked coding, encoding.
//!
//! These functions have no connection and no time. httparse parses heads into spans of the buffer
//! that they arrived in. Only adapters build an `http::Request` from them.

mod chunked;
mod date;
mod encode;
mod framing;
mod head;
mod refusal;
mod target;
mod trailers;

pub(crate) use self::chunked::{ChunkHeader, Decoded, is_token};
pub use self::date::HttpDate;
#[cfg(feature = "worker")]
pub(crate) use self::encode::push_decimal;
pub use self::encode::{BodyLen, FieldError, ResponseHead};
pub(crate) use self::encode::{ConnectionField, Framing, encode_head, encode_interim, frame};
pub(crate) use self::framing::{BufferedBody, Decoder};
pub use self::head::{Fields, Head, RequestHead, Version};
pub(crate) use self::head::{HeadLimits, Parsed, parse_head};
pub use self::refusal::{BodyError, Refusal};
pub(crate) use self::target::is_authority;
pub(crate) use self::trailers::push_end;
