//! Moving connections to other processes (D19): the queue between processes, and the sender's side
//! of it.

pub(super) use self::departures::Departures;
pub use self::queue::{Adopted, Inbox, Outbox, SendError, queue, receive, waiting_since};

mod departures;
mod queue;
