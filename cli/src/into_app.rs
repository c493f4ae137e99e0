//! What may be given to [`run`](crate::run).

use remuda_core::app::{App, Handler};

/// Whatever can be made an [`App`].
///
/// `M` only tells the implementations apart, so that each kind of application can have a blanket one; it is
/// inferred and never written.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an application",
    note = "a function of (&Head<'_>, BodyReader<'_>, Responder<'_>) that returns Result<(), AppError> is one"
)]
pub trait IntoApp<M> {
    /// Makes it one.
    fn into_app(self) -> App;
}

/// Marks what is a blocking [`Handler`].
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "a marker without values")]
pub enum Blocking {}

/// Marks what is an [`App`] already.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "a marker without values")]
pub enum Itself {}

impl<H: Handler> IntoApp<Blocking> for H {
    fn into_app(self) -> App {
        App::blocking(self)
    }
}

impl IntoApp<Itself> for App {
    fn into_app(self) -> App {
        self
    }
}
