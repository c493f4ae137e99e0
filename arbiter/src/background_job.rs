//! Background jobs: work of a reload that takes longer than the arbiter may wait. A child does it,
//! and writes its result into a pipe.

use std::fmt;

/// Runs in the child.
pub(crate) type Work = Box<dyn FnOnce() -> Vec<u8>>;

/// Runs in the arbiter.
pub(crate) type Finish = Box<dyn FnOnce(&[u8]) -> Result<(), String>>;

/// Work that may take long and that a reload needs before it can load, such as the lookup of a host
/// name.
///
/// It runs in a child process, a copy of the arbiter. Its changes of memory are lost with the
/// child.
pub struct BackgroundJob {
    pub(crate) what: String,
    pub(crate) work: Work,
    pub(crate) finish: Finish,
}

impl BackgroundJob {
    /// Creates a background job. `what` names it in messages, as in `bind: the address of
    /// "app.example"`. `work` runs in the child. `finish` runs in the arbiter, with the bytes that
    /// `work` returned, or a part of them if the child died before it wrote all: an error refuses
    /// the reload. After `finish` the configuration is loaded again.
    pub fn new(
        what: impl Into<String>,
        work: impl FnOnce() -> Vec<u8> + 'static,
        finish: impl FnOnce(&[u8]) -> Result<(), String> + 'static,
    ) -> Self {
        Self { what: what.into(), work: Box::new(work), finish: Box::new(finish) }
    }

    /// Runs `work` in this process, for tests.
    #[doc(hidden)]
    pub fn run(self) -> Vec<u8> {
        (self.work)()
    }

    /// Runs `finish` with this answer, for tests.
    #[doc(hidden)]
    pub fn finish(self, answer: &[u8]) -> Result<(), String> {
        (self.finish)(answer)
    }
}

impl fmt::Debug for BackgroundJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackgroundJob").field("what", &self.what).finish_non_exhaustive()
    }
}

/// Why a reload loaded nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unloaded {
    /// The reload is refused; a sentence for operators. Everything stays as it is (D16).
    Refused(String),
    /// The reload is tried again after this job, unless that takes longer than 30 s or the
    /// server stops.
    Awaits(BackgroundJob),
}

impl From<String> for Unloaded {
    fn from(why: String) -> Self {
        Self::Refused(why)
    }
}
