//! The `Date` field, formatted once a second instead of once a response (RFC 9110 §6.6.1, §5.6.7).

use std::fmt;
use std::io::Write;
use std::time::{Duration, SystemTime};

/// A second of the wall clock, spelled as an IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HttpDate {
    text: [u8; 29],
}

impl HttpDate {
    /// The second `unix` seconds after the epoch. Years after 9999 are written as the epoch.
    pub fn from_unix(unix: u64) -> Self {
        const LAST: u64 = 253_402_300_799;
        let when = SystemTime::UNIX_EPOCH + Duration::from_secs(if unix > LAST { 0 } else { unix });
        let mut text = [b' '; 29];
        write!(&mut text[..], "{}", httpdate::HttpDate::from(when)).expect("an IMF-fixdate has 29 bytes");
        Self { text }
    }

    /// The 29 bytes of the field's value.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }
}

impl fmt::Debug for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text))
    }
}

#[cfg(test)]
mod tests;
