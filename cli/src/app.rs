//! Applications: handlers, requests, responses, and what a worker offers to the application that it
//! builds.
//!
//! A handler is blocking or async. Every backend serves both; the page *Choosing a worker* of the
//! book says which backend suits which.
//!
//! | kind | handler | request body | response |
//! |---|---|---|---|
//! | blocking | [`Handler`], any `fn(&Head, BodyReader, Responder)` | [`BodyReader`], a [`Read`](std::io::Read) | [`Responder`], then [`BodyWriter`], a [`Write`](std::io::Write) |
//! | async | [`AsyncHandler`] | [`Incoming`], an [`http_body::Body`] | `http::Response<`[`Body`]`>` |
//! | tower service, such as an axum `Router` | [`tower_service::Service`] | [`Incoming`] | any [`http_body::Body`] |
//!
//! [`IntoApp`] turns each of them into an [`App`].
//!
//! # Examples
//!
//! A streamed answer that ends when the worker drains:
//!
//! ```
//! use std::io::Write;
//! use std::time::Duration;
//!
//! use remuda::{AppError, BodyReader, Head, Responder, ResponseHead};
//!
//! fn ticks(_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
//!     let drain = out.drain();
//!     let head = ResponseHead::new(200).field("Content-Type", "text/event-stream");
//!     let mut out = out.stream(head)?;
//!     while !drain.wait(Duration::from_secs(1)) {
//!         out.write_all(b"data: tick\n\n")?;
//!         out.flush()?;
//!     }
//!     Ok(())
//! }
//! ```

pub use remuda_core::app::{
    App, AppError, AppFactory, AsyncHandler, Body, BodyReader, BodyWriter, Boot, ClientEnd, ConnectionInfo,
    Counters, DrainSignal, Handler, Hold, Incoming, RequestInfo, Responder, Short, Upgraded,
};
pub use remuda_core::client::{Client, Scheme};
pub use remuda_core::conn::RespondError;
pub use remuda_core::http1::{Fields, Head, ResponseHead, Version};
pub use remuda_core::worker::alarm::{Sleep, sleep};

pub use crate::into_app::{Async, Blocking, IntoApp, Itself, Tower};
#[cfg(feature = "tokio-context")]
pub use crate::take_over::{Duplex, TakeOver, take_over};
