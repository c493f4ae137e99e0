//! A tokio runtime for applications that need one, on backends other than tokio.
//!
//! Timers, sockets and tasks of the application run on one driver thread, started only on request.
//! Handlers stay on the backend's own loop, which enters the runtime so that they find it. Without
//! the feature `tokio-context`, a request for the runtime is an error.

use std::io;

pub use self::imp::Entered;
use crate::app::App;

/// A handle to the runtime, or none.
#[derive(Clone, Debug)]
pub struct TokioContext(Option<imp::Handle>);

impl TokioContext {
    /// Starts the driver thread if a runtime is `wanted`. The thread ends with the process: tasks
    /// that the application has spawned there do not delay the exit of the worker.
    ///
    /// # Errors
    ///
    /// The runtime or its thread could not be created, or the build lacks the feature.
    pub fn new(wanted: bool) -> io::Result<Self> {
        wanted.then(imp::start).transpose().map(Self)
    }

    /// The runtime that the caller runs in, for the tokio backend.
    #[cfg(feature = "tokio-context")]
    pub fn current() -> Self {
        Self(Some(imp::Handle::current()))
    }

    /// Whether there is a runtime.
    pub fn exists(&self) -> bool {
        self.0.is_some()
    }

    /// Starts the driver thread if `app` wants a runtime and there is none yet: some applications
    /// say so only once they are built.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn for_app(self, app: &App) -> io::Result<Self> {
        if self.exists() { Ok(self) } else { Self::new(app.wants_tokio()) }
    }

    /// Enters the runtime on this thread until the guard is dropped.
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
            // The receiver waits for this answer.
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

    /// Never constructed.
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
            "the application needs a tokio runtime, and this build of the backend has none; \
             enable the feature tokio-context, or use the tokio backend",
        ))
    }
}
