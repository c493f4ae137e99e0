//! From a command line to a running arbiter.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::{env, fmt, mem};

use remuda_arbiter::Arbiter;
use remuda_core::app::{App, AppError, AppFactory, Boot};
use remuda_core::order::PolicyId;
use remuda_core::shutdown::ShutdownPolicy;
use remuda_core::worker::Worker;

use crate::settings::{self, Action, Cause, Inputs, Invocation, Problem, Rejected, Settings};

/// The exit status for settings that are not right.
const BAD_SETTINGS: u8 = 2;

/// A server around an application that each worker builds for itself.
///
/// ```no_run
/// use std::process::ExitCode;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use remuda::{App, BodyReader, Head, Responder, ResponseHead, Server};
///
/// fn main() -> ExitCode {
///     Server::new(|boot| {
///         let slot = boot.slot;
///         let visits = AtomicU64::new(0);
///         Ok(App::blocking(move |_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>| {
///             let n = visits.fetch_add(1, Ordering::Relaxed) + 1;
///             out.send(ResponseHead::new(200), format!("visit {n} of worker {slot}\n"))?;
///             Ok(())
///         }))
///     })
///     .run()
/// }
/// ```
pub struct Server {
    application: Application,
    settings: Option<Settings>,
    arguments: Option<Vec<OsString>>,
    version: String,
    named: BTreeMap<String, Arc<dyn ShutdownPolicy>>,
    decided: Vec<(PolicyId, Arc<dyn ShutdownPolicy>)>,
    backends: Vec<Arc<dyn Worker>>,
}

enum Application {
    Given(AppFactory),
    Named(Box<Choose>),
}

type Choose = dyn FnOnce(Option<&str>) -> Result<AppFactory, AppError>;

impl Server {
    /// A server of what `factory` builds. It is called once in each worker, after the fork, so that nothing it
    /// makes (connections, threads, random generators) is shared by processes.
    pub fn new(factory: impl Fn(&Boot) -> Result<App, AppError> + Send + Sync + 'static) -> Self {
        Self::from_factory(AppFactory::new(factory))
    }

    /// A server of what `factory` builds when it has to await something on the way: it runs in each worker, after the
    /// fork and inside the backend's runtime.
    pub fn from_async<F>(factory: impl Fn(Boot) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<App, AppError>> + 'static,
    {
        Self::from_factory(AppFactory::from_async(factory))
    }

    /// A server of what `factory` builds.
    pub fn from_factory(factory: AppFactory) -> Self {
        Self::of(Application::Given(factory))
    }

    /// A server whose command line has an argument that names the application: `choose` gets it, or `None` if
    /// there is none, and gives the factory, or the sentence to refuse the name with. Called once, before
    /// anything is started.
    pub fn choosing(choose: impl FnOnce(Option<&str>) -> Result<AppFactory, AppError> + 'static) -> Self {
        Self::of(Application::Named(Box::new(choose)))
    }

    fn of(application: Application) -> Self {
        let version = concat!("with remuda ", env!("CARGO_PKG_VERSION")).to_owned();
        Self {
            application,
            settings: None,
            arguments: None,
            version,
            backends: Vec::new(),
            named: BTreeMap::new(),
            decided: Vec::new(),
        }
    }

    /// Uses these settings, and reads neither command line nor environment nor file.
    #[must_use]
    pub fn settings(self, settings: Settings) -> Self {
        Self { settings: Some(settings), ..self }
    }

    /// Reads this command line instead of the process's own. The first item is the program's name.
    #[must_use]
    pub fn args<T: Into<OsString>>(self, arguments: impl IntoIterator<Item = T>) -> Self {
        Self { arguments: Some(arguments.into_iter().map(Into::into).collect()), ..self }
    }

    /// Lets the settings `drain`, `drain-reload` and `drain-recycle` call `policy` by this name. A policy of remuda's that
    /// has it goes before.
    ///
    /// ```no_run
    /// # use remuda::{App, Grace, Server};
    /// use std::time::Duration;
    ///
    /// # let server = Server::new(|_| -> Result<App, remuda::AppError> { unimplemented!() });
    /// // --drain browsers
    /// server.policy("browsers", Grace(Duration::from_secs(3))).run();
    /// ```
    #[must_use]
    pub fn policy(mut self, name: impl Into<String>, policy: impl ShutdownPolicy) -> Self {
        self.named.insert(name.into(), Arc::new(policy));
        self
    }

    /// Has `policy` decide about drains of this kind, whatever the settings say.
    #[must_use]
    pub fn drain(mut self, kind: PolicyId, policy: impl ShutdownPolicy) -> Self {
        self.decided.push((kind, Arc::new(policy)));
        self
    }

    /// Adds a backend, which its name then selects (`--worker-class`), before one that is built in and called the same.
    #[must_use]
    pub fn backend(mut self, backend: impl Worker) -> Self {
        self.backends.push(Arc::new(backend));
        self
    }

    /// What `--version` says behind the program's name. Default: the version of remuda.
    #[must_use]
    pub fn version(self, version: impl Into<String>) -> Self {
        Self { version: version.into(), ..self }
    }

    /// Serves until told to stop, or says on standard error why not. The exit status is as for
    /// [`run`](crate::run).
    pub fn run(self) -> ExitCode {
        match self.prepare() {
            Ok(ready) => ready.serve(),
            Err(status) => ExitCode::from(status),
        }
    }

    /// Everything that can be known before the start. The error is the exit status, once all there is to say has been
    /// said.
    fn prepare(mut self) -> Result<Ready, u8> {
        let decided = mem::take(&mut self.decided);
        let mut ready = self.read()?;
        for (kind, policy) in decided {
            ready.settings.arbiter.policies.set(kind, policy);
        }
        Ok(ready)
    }

    /// Reads the settings.
    fn read(self) -> Result<Ready, u8> {
        if let Some(settings) = self.settings {
            let app =
                self.application.choose(None).map_err(|error| reject("remuda", vec![refused(&error)]))?;
            return Ok(Ready { program: "remuda".to_owned(), settings, app });
        }
        let arguments = self.arguments.unwrap_or_else(|| env::args_os().collect());
        let program = name(&arguments);
        let takes_app = matches!(self.application, Application::Named(_));
        let command = settings::command(program.clone(), self.version, takes_app, &self.backends);
        let inputs =
            Inputs { backends: self.backends, custom_policies: self.named, ..Inputs::of_process(arguments) };
        let invocation = settings::read(&command, inputs).map_err(|error| {
            // Where nobody reads, nothing is left to say it to.
            let _ = error.print();
            error.exit_code() as u8
        })?;
        let Invocation { action, app, settings, origins, mut problems } = invocation;
        let app = self.application.choose(app.as_deref()).map_err(|error| problems.push(refused(&error)));
        match (app, action) {
            (Ok(app), Action::Serve) if problems.is_empty() => Ok(Ready { program, settings, app }),
            (Ok(_), Action::Check) if problems.is_empty() => Err(0),
            (Ok(_), Action::Print) if problems.is_empty() => {
                let _ = io::stdout().write_all(settings::printed(&origins).as_bytes());
                Err(0)
            }
            _ => Err(reject(&program, problems)),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Application {
    fn choose(self, name: Option<&str>) -> Result<AppFactory, AppError> {
        match self {
            Self::Given(factory) => Ok(factory),
            Self::Named(choose) => choose(name),
        }
    }
}

/// All that an arbiter needs.
struct Ready {
    /// Its name.
    program: String,
    settings: Settings,
    app: AppFactory,
}

impl Ready {
    fn serve(self) -> ExitCode {
        let logs = match crate::log::start(&self.settings) {
            Ok(logs) => logs,
            Err(cause) => return ExitCode::from(reject(&self.program, vec![cause.into()])),
        };
        let Some(backend) = self.settings.backend else {
            tracing::error!("no backend was chosen, and the default one is not built in");
            return ExitCode::from(BAD_SETTINGS);
        };
        let mut config = self.settings.arbiter;
        config.logs = logs;
        let outcome = Arbiter::new(config, backend, self.app).run();
        if outcome.status() != 0 {
            tracing::error!("{outcome}");
        }
        ExitCode::from(outcome.status())
    }
}

fn refused(app: &AppError) -> Problem {
    Cause::App(app.to_string()).into()
}

/// The program's name, as its user knows it.
fn name(arguments: &[OsString]) -> String {
    let path = arguments.first().map(Path::new);
    let name = path.and_then(Path::file_name).unwrap_or_else(|| "remuda".as_ref());
    name.to_string_lossy().into_owned()
}

/// Says what is wrong: with pictures on a terminal, elsewhere a line each, so that a log keeps them apart.
fn reject(program: &str, problems: Vec<Problem>) -> u8 {
    let mut stderr = io::stderr().lock();
    // Where nobody reads, nothing is left to say it to.
    let _ = if stderr.is_terminal() {
        writeln!(stderr, "{:?}", miette::Report::new(Rejected { problems }))
    } else {
        problems.iter().try_for_each(|problem| writeln!(stderr, "{program}: {problem}"))
    };
    BAD_SETTINGS
}

#[cfg(test)]
mod tests;
