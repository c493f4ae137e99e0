//! HTTP/1.1 as pure functions on bytes (RFC 9112): heads, framing, chunked coding, encoding.
//!
//! Nothing here knows connections or time. Heads are parsed by httparse into spans of the buffer that they
//! arrived in; `http::Request` is built from them by adapters alone.

mod chunked;
mod date;
mod encode;
#[path = "trust/forwarded.rs"]
mod forwarded;
mod framing;
mod head;
mod target;
mod trailers;

pub(crate) use self::chunked::ChunkHeader;
pub use self::date::HttpDate;
#[cfg(feature = "worker")]
pub(crate) use self::encode::push_decimal;
pub use self::encode::{BodyLen, FieldError, ResponseHead};
pub(crate) use self::encode::{ConnectionField, Framing, encode_head, encode_interim, frame};
pub(crate) use self::framing::{Ahead, Decoded, Decoder};
pub use self::framing::{BodyError, Refusal};
pub use self::head::{Fields, Head, RequestHead, Version};
pub(crate) use self::head::{HeadLimits, Parsed, parse_head};
pub(crate) use self::trailers::push_end;
