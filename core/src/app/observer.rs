//! Who is told what has become of each request: an access log, or whatever else keeps an account of them.

use std::fmt;
use std::time::Duration;

use super::ConnectionInfo;
use crate::http1::Head;
use crate::time::Time;

/// Told of every request once: when its response is queued to its end, or when there will be no more of it.
///
/// 1. A request that was refused is told of as well, with as much of it as was understood.
/// 2. One that changed the protocol is told of when the application is done with the connection.
/// 3. It is called where the request was answered, on the loop or on a handler's thread, and holds that up: it must not
///    block. The one request it is not told of is that of a handler which is still running when its worker ends.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A request is over.
    fn answered(&self, answered: &Answered<'_>);

    /// Whether the fields of responses are to be kept for it.
    fn wants_fields(&self) -> bool {
        false
    }
}

/// What has become of a request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Answered<'a> {
    /// The request. One that was refused before it was understood has no fields, and its method and target may be
    /// empty.
    pub head: Head<'a>,
    /// What it came on.
    pub connection: ConnectionInfo,
    /// The status that it was answered with; none if the connection ended before that.
    pub status: Option<u16>,
    /// Bytes of content that were sent or, if the response is complete, queued.
    pub sent: u64,
    /// When its head was complete; of one that was refused, when it began.
    pub since: Time,
    /// How long it has taken from then on.
    pub took: Duration,
    pub(crate) fields: &'a [u8],
}

impl<'a> Answered<'a> {
    /// The value of the first field called `name` of the response, in any case of letters; none if fields are not
    /// [wanted](Observer::wants_fields).
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        let lines = self.fields.split(|&byte| byte == b'\n').skip(1);
        let fields = lines.filter_map(|line| line.split_at_checked(line.iter().position(|&b| b == b':')?));
        let mut named = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes()));
        named.next().map(|(_, value)| value[1..].trim_ascii())
    }
}
