//! A tokio runtime for applications that expect one, on backends that are none.
//!
//! Timers, sockets and tasks of the application live on one driver thread, made only if asked for; its handlers stay
//! on the backend's own loop, which enters the runtime so that they find it. Without the `tokio-context` feature
//! asking for it is an error.

use std::io;

pub use self::imp::Entered;

/// The runtime, or none.
#[derive(Clone, Debug)]
pub struct TokioContext(Option<imp::Handle>);

impl TokioContext {
    /// Starts the driver thread if a runtime is `wanted`. The thread ends with the process: what the application has
    /// spawned there does not hold the worker's exit.
    ///
    /// # Errors
    ///
    /// The runtime or its thread could not be made, or this build has none.
    pub fn new(wanted: bool) -> io::Result<Self> {
        wanted.then(imp::start).transpose().map(Self)
    }

    /// The runtime that this is called in: for backends that are one.
    #[cfg(feature = "tokio-context")]
    pub fn current() -> Self {
        Self(Some(imp::Handle::current()))
    }

    /// Lets this thread find the runtime until the guard is dropped.
    pub fn enter(&self) -> Option<Entered<'_>> {
        self.0.as_ref().map(imp::Handle::enter)
    }
}

#[cfg(feature = "tokio-context")]
mod imp {
    use std::future::pending;
    use std::io;
    use std::sync::mpsc::channel;
    use std::thread;

    use tokio::runtime::Builder;
    pub use tokio::runtime::EnterGuard as Entered;
    pub(super) use tokio::runtime::Handle;

    pub(super) fn start() -> io::Result<Handle> {
        let (give, take) = channel();
        thread::Builder::new().name("tokio".to_owned()).spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            // Nobody who asked has gone before being answered.
            let _ = give.send(match &runtime {
                Ok(runtime) => Ok(runtime.handle().clone()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
            if let Ok(runtime) = runtime {
                runtime.block_on(pending::<()>());
            }
        })?;
        take.recv().map_err(io::Error::other)?
    }
}

#[cfg(not(feature = "tokio-context"))]
mod imp {
    use std::io;
    use std::marker::PhantomData;

    /// Nothing is ever entered.
    #[derive(Debug)]
    pub struct Entered<'a>(PhantomData<&'a Handle>);

    #[derive(Clone, Debug)]
    pub(super) enum Handle {}

    impl Handle {
        pub(super) fn enter(&self) -> Entered<'_> {
            match *self {}
        }
    }

    pub(super) fn start() -> io::Result<Handle> {
        Err(io::Error::other(
            "the application wants a tokio runtime, and this build of the backend has none; \
             enable the feature tokio-context, or use the tokio backend",
        ))
    }
}
