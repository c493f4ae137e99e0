//! The trailer section of a chunked body (RFC 9112 §7.1.2), received and sent: which fields it may
//! have. The form of its lines is checked elsewhere.
//!
//! Other fields are dropped, received or sent. A recipient may drop any trailer field of a request
//! (RFC 9112 §7.1.2). Those of a response come after head and body, when an error could only cut an
//! otherwise complete response.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Appends the last chunk, the fields that may be trailers, and the end of the body.
pub(crate) fn push_end(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| may_trail(name)) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// The fields of a trailer section whose lines have a valid form.
pub(super) fn read(lines: &[u8]) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    for line in lines.split(|&b| b == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let name = HeaderName::from_bytes(&line[..colon]).ok().filter(may_trail);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok();
        if let Some((name, value)) = name.zip(value) {
            trailers.append(name, value);
        }
    }
    trailers
}

/// Whether a field may be in a trailer section (RFC 9110 §6.5.1): not if it has to be known before
/// the content. Fields that are defined as trailers stay: ETag (§8.8.3), Authentication-Info
/// (§11.6.3), Accept-Ranges (§14.3), Content-Digest (RFC 9530 §2).
fn may_trail(name: &HeaderName) -> bool {
    match name.as_str() {
        // Framing and the connection (§7.6.1, §7.8, §6.6.2, RFC 9112 §6).
        "connection" | "content-length" | "keep-alive" | "proxy-connection" | "te" | "trailer"
        | "transfer-encoding" | "upgrade" => false,
        // Routing (§7.2, §7.6.2, §7.6.3, RFC 7239 §4).
        "host" | "max-forwards" | "via" | "forwarded" => false,
        // Request modifiers: controls and conditions (§10.1.1, §13.1, §14.2, RFC 9111 §5).
        "expect"
        | "range"
        | "cache-control"
        | "pragma"
        | "if-match"
        | "if-none-match"
        | "if-modified-since"
        | "if-unmodified-since"
        | "if-range" => false,
        // Authentication and state (§11.6, §11.7, RFC 6265 §4).
        "authorization"
        | "proxy-authorization"
        | "www-authenticate"
        | "proxy-authenticate"
        | "cookie"
        | "set-cookie" => false,
        // Control data of a response (§6.6.1, §10.2, §12.5.5, RFC 9111 §5).
        "age" | "date" | "expires" | "location" | "retry-after" | "vary" | "warning" => false,
        // The meaning of the content (§8).
        "content-digest" => true,
        other => !other.starts_with("content-"),
    }
}

#[cfg(test)]
mod tests;
