//! From a command line to a running arbiter.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::{env, fmt};

use remuda_arbiter::{Arbiter, Hooks, Loaded, Unloaded};
use remuda_core::app::{AppError, AppFactory, Boot};
use remuda_core::handoff::Records;
use remuda_core::order::PolicyId;
use remuda_core::shutdown::ShutdownPolicy;
use remuda_core::worker::Worker;

use crate::client;
use crate::into_app::IntoApp;
use crate::log::Log;
use crate::settings::{
    self, Action, Cause, Found, Inputs, Invocation, Names, Origin, Problem, Rejected, Settings,
    nearly_a_command,
};

/// The exit status for invalid settings.
const BAD_SETTINGS: u8 = 2;

/// A server for an application that each worker builds for itself.
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
    hooks: Arc<dyn Hooks>,
    records: Records,
}

enum Application {
    Given(AppFactory),
    Named(Box<Choose>),
}

type Choose = dyn Fn(Option<&str>) -> Result<AppFactory, AppError>;

impl Server {
    /// Creates a server for the application that `factory` builds. The factory is called once in
    /// each worker, after the fork, so that processes share nothing it creates (connections,
    /// threads, random generators). With the setting `preload` it is called once in the arbiter
    /// instead, before any fork.
    ///
    /// The factory returns an [`App`](crate::App), or anything that [can be converted to
    /// one](IntoApp): a [`Handler`](crate::app::Handler), an
    /// [`AsyncHandler`](crate::app::AsyncHandler), a tower service such as an axum `Router`. A
    /// tower service finds a tokio runtime on every backend, and so does `factory` while it builds
    /// one:
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    ///
    /// use axum::{Router, routing::get};
    /// use remuda::Server;
    ///
    /// fn main() -> ExitCode {
    ///     Server::new(|boot| {
    ///         let slot = boot.slot;
    ///         Ok(Router::new().route("/", get(move || async move { format!("worker {slot}\n") })))
    ///     })
    ///     .run()
    /// }
    /// ```
    pub fn new<M, A: IntoApp<M>>(
        factory: impl Fn(&Boot) -> Result<A, AppError> + Send + Sync + 'static,
    ) -> Self {
        let factory = AppFactory::new(move |boot| Ok(factory(boot)?.into_app()));
        Self::from_factory(if A::WANTS_TOKIO { factory.with_tokio() } else { factory })
    }

    /// Creates a server for an application whose construction has to await something. `factory`
    /// runs in each worker, after the fork and inside the backend's runtime. The application cannot
    /// be preloaded.
    ///
    /// The factory may return the same types as for [`new`](Self::new). If it returns a tower
    /// service, it finds a tokio runtime as well.
    pub fn from_async<M, A: IntoApp<M>, F>(factory: impl Fn(Boot) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<A, AppError>> + 'static,
    {
        let factory = AppFactory::from_async(move |boot| {
            let building = factory(boot);
            async move { Ok(building.await?.into_app()) }
        });
        Self::from_factory(if A::WANTS_TOKIO { factory.with_tokio() } else { factory })
    }

    /// Creates a server for the application that `factory` builds.
    pub fn from_factory(factory: AppFactory) -> Self {
        Self::of(Application::Given(factory))
    }

    /// Creates a server whose command line has an argument that names the application. `choose`
    /// receives the argument, or `None` if there is none, and returns the factory, or the error
    /// message for the name. It is called before anything is started, and again in each reload. A
    /// sub-command takes precedence over an application of the same name, which is then written
    /// `./status`.
    pub fn choosing(choose: impl Fn(Option<&str>) -> Result<AppFactory, AppError> + 'static) -> Self {
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
            hooks: Arc::new(()),
            records: Records::default(),
        }
    }

    /// Uses these settings, and reads neither command line nor environment nor file, not even in a
    /// reload.
    #[must_use]
    pub fn settings(self, settings: Settings) -> Self {
        Self { settings: Some(settings), ..self }
    }

    /// Reads this command line instead of the process's own. The first item is the program's name.
    #[must_use]
    pub fn args<T: Into<OsString>>(self, arguments: impl IntoIterator<Item = T>) -> Self {
        Self { arguments: Some(arguments.into_iter().map(Into::into).collect()), ..self }
    }

    /// Names `policy` for the settings `drain`, `drain-reload` and `drain-recycle`. A built-in
    /// policy of the same name takes precedence.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use remuda::policy::Grace;
    /// use remuda::{App, Server, demo};
    ///
    /// // --drain browsers
    /// let server = Server::new(|boot| Ok(App::blocking(demo::handler(boot))));
    /// server.policy("browsers", Grace(Duration::from_secs(3))).run();
    /// ```
    #[must_use]
    pub fn policy(mut self, name: impl Into<String>, policy: impl ShutdownPolicy) -> Self {
        self.named.insert(name.into(), Arc::new(policy));
        self
    }

    /// Makes `policy` decide about drains of this kind, whatever the settings say.
    #[must_use]
    pub fn drain(mut self, kind: PolicyId, policy: impl ShutdownPolicy) -> Self {
        self.decided.push((kind, Arc::new(policy)));
        self
    }

    /// Adds a backend, which `--worker-class` then selects by its name. It takes precedence over a
    /// built-in backend of the same name.
    #[must_use]
    pub fn backend(mut self, backend: impl Worker) -> Self {
        self.backends.push(Arc::new(backend));
        self
    }

    /// Calls `hooks` at certain moments of the server's life. Default: none. A second call replaces
    /// the hooks of the first.
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    ///
    /// use remuda::hooks::{ChildExit, Hooks, ServerInfo, WorkerInfo};
    /// use remuda::{Server, demo};
    ///
    /// struct Journal;
    ///
    /// impl Hooks for Journal {
    ///     fn when_ready(&self, server: &ServerInfo) {
    ///         println!("{} workers are there", server.workers);
    ///     }
    ///
    ///     fn child_exit(&self, worker: &WorkerInfo, exit: &ChildExit) {
    ///         if let Some(signal) = exit.signal {
    ///             println!("signal {signal} ended worker {} after {:?}", worker.pid, exit.lived);
    ///         }
    ///     }
    /// }
    ///
    /// fn main() -> ExitCode {
    ///     Server::new(demo::build).hooks(Journal).run()
    /// }
    /// ```
    #[must_use]
    pub fn hooks(self, hooks: impl Hooks) -> Self {
        Self { hooks: Arc::new(hooks), ..self }
    }

    /// For tests of upgrades between versions: the versions of hand-off records that the server
    /// reads and writes.
    #[doc(hidden)]
    #[must_use]
    pub fn records(self, records: Records) -> Self {
        Self { records, ..self }
    }

    /// The text that `--version` prints after the program's name. Default: the version of remuda.
    #[must_use]
    pub fn version(self, version: impl Into<String>) -> Self {
        Self { version: version.into(), ..self }
    }

    /// Serves until told to stop, or prints on standard error why it cannot. The exit status is
    /// that of [`run`](crate::run).
    pub fn run(self) -> ExitCode {
        let (hooks, records) = (self.hooks.clone(), self.records.clone());
        match self.prepare() {
            Ok(ready) => ready.serve(hooks, records),
            Err(status) => ExitCode::from(status),
        }
    }

    /// Carries out a sub-command, or reads and checks the settings. The error is the exit status of
    /// the process, after all messages have been printed.
    fn prepare(self) -> Result<Ready, u8> {
        let Self { application, settings, arguments, version, backends, named, decided, .. } = self;
        let Some(mut settings) = settings else {
            let arguments = arguments.unwrap_or_else(|| env::args_os().collect());
            let program = name(&arguments);
            let takes_app = matches!(application, Application::Named(_));
            let command = client::command_line(program.clone(), version.clone(), takes_app, &backends);
            if let Some(status) = client::run(&command, &arguments) {
                return Err(status);
            }
            let inputs = Inputs { backends, custom_policies: named, ..Inputs::of_process(arguments) };
            let found = Rc::default();
            return Source { application, decided, version, command, inputs, found }.start(program);
        };
        decide(&mut settings, &decided);
        let program = "remuda".to_owned();
        let app = application.choose(None).and_then(|app| preloadable(app, &settings));
        let app = app.map_err(|error| reject(&program, vec![refused(&error, None)]))?;
        Ok(Ready { program, settings, app, again: None })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Application {
    fn choose(&self, name: Option<&str>) -> Result<AppFactory, AppError> {
        match self {
            Self::Given(factory) => Ok(factory.clone()),
            Self::Named(choose) => choose(name),
        }
    }
}

/// The source of settings and application, at the start and in each reload. A reload uses the
/// environment and the directory of the start, and reads the file again.
struct Source {
    application: Application,
    decided: Vec<(PolicyId, Arc<dyn ShutdownPolicy>)>,
    version: String,
    command: clap::Command,
    inputs: Inputs,
    /// Addresses looked up for a reload, which is then tried again.
    found: Rc<RefCell<Found>>,
}

impl Source {
    fn start(self, program: String) -> Result<Ready, u8> {
        let (invocation, app) = self.read(Names::default()).map_err(|error| {
            let words = &self.inputs.arguments;
            if let Some(problem) = settings::unknown_on_the_line(&error, &self.command, words) {
                return reject(&program, vec![problem]);
            }
            // A closed standard error leaves no place for the message; the status remains.
            let _ = error.print();
            error.exit_code() as u8
        })?;
        let Invocation { action, settings, origins, problems, .. } = invocation;
        match (app, action) {
            (Some(app), Action::Serve) => Ok(Ready { program, settings, app, again: Some((self, origins)) }),
            (Some(_), Action::Check) => Err(0),
            (Some(_), Action::Print) => {
                let _ = io::stdout().write_all(settings::printed(&origins).as_bytes());
                Err(0)
            }
            (Some(_), Action::Examine) => Err(client::doctor::examine(&settings)),
            (None, _) => Err(reject(&program, problems)),
        }
    }

    /// Reads the settings that replace those described by `origins`, or reports everything that is
    /// wrong with them. Settings that only a new start changes keep their values. If host names
    /// have to be looked up first, the error says so: nothing waits here.
    fn again(&self, origins: &[Origin]) -> Result<(Settings, AppFactory), Unloaded> {
        // Relative paths start in the directory of the start; `chdir` may have moved the process
        // since.
        let directory = &self.inputs.directory;
        let (here, name) = (File::open("."), env::current_dir());
        let gone = env::set_current_dir(directory).err().map(|error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => "is gone".to_owned(),
                _ => format!("cannot be entered: {error}"),
            };
            format!("the start directory {directory:?}, the base of relative paths, {why}")
        });
        let read = self.read(Names::known(self.found.take()));
        // Back by descriptor, because the directory may have lost its name. By name only if the
        // directory is not readable.
        let back = here.map(|here| env::set_current_dir(format!("/proc/self/fd/{}", here.as_raw_fd())));
        if !matches!(back, Ok(Ok(()))) {
            let _ = name.and_then(env::set_current_dir);
        }
        let because = |why: String| gone.iter().cloned().chain([why]).collect::<Vec<_>>().join("; ");
        let (invocation, app) = read.map_err(|error| because(error.to_string()))?;
        let Invocation { mut settings, origins: now, problems, .. } = invocation;
        // `read` does not report a missing `remuda.toml` that was never named, so a lost directory
        // is reported here.
        if origins.iter().any(Origin::is_of_the_directory) && !now.iter().any(Origin::is_of_the_directory) {
            gone.clone().map_or(Ok(()), Err)?;
        }
        self.knows_all(&settings)?;
        let Some(app) = app else {
            let sentences: Vec<_> = problems.iter().map(Problem::to_string).collect();
            return Err(because(sentences.join("; ")).into());
        };
        let kept = settings::keep(origins, &now, &mut settings);
        self.knows_all(&settings)?;
        for kept in kept {
            tracing::warn!("{kept} is not changed by a reload; it needs a new start");
        }
        Ok((settings, app))
    }

    /// Fails if host names in `settings` have not been looked up yet; the error carries the lookup
    /// to perform first.
    fn knows_all(&self, settings: &Settings) -> Result<(), Unloaded> {
        let found = self.found.clone();
        match settings.names.look_up_job(move |now| *found.borrow_mut() = now) {
            Some(job) => Err(Unloaded::Awaits(job)),
            None => Ok(()),
        }
    }

    /// Reads the settings. The application is `Some` only if nothing is wrong.
    fn read(&self, names: Names) -> Result<(Invocation, Option<AppFactory>), clap::Error> {
        let mut invocation = settings::read(&self.command, Inputs { names, ..self.inputs.clone() })?;
        if invocation.settings.names.lacks_any() {
            return Ok((invocation, None));
        }
        decide(&mut invocation.settings, &self.decided);
        invocation.settings.arbiter.version.clone_from(&self.version);
        let app = self.application.choose(invocation.app.as_deref());
        let app = app.and_then(|app| preloadable(app, &invocation.settings));
        let command = invocation.app.as_deref().and_then(|name| nearly_a_command(name, &self.command));
        let app = app.map_err(|error| invocation.problems.push(refused(&error, command))).ok();
        let is_right = invocation.problems.is_empty();
        Ok((invocation, app.filter(|_| is_right)))
    }
}

/// A server that is ready to start.
struct Ready {
    /// The program's name, for messages.
    program: String,
    settings: Settings,
    app: AppFactory,
    /// The source that a reload reads, and the origins of the first settings. `None` if the program
    /// supplied the settings.
    again: Option<(Source, Vec<Origin>)>,
}

impl Ready {
    fn serve(self, hooks: Arc<dyn Hooks>, records: Records) -> ExitCode {
        let Self { program, settings, app, again } = self;
        // Before the first files, those of the logs, are created.
        settings.arbiter.process.set_umask();
        let log = match Log::start(&settings) {
            Ok(log) => log,
            Err(cause) => return ExitCode::from(reject(&program, vec![cause.into()])),
        };
        let start = match loaded(settings, app, &log) {
            Ok(start) => start,
            Err(why) => {
                tracing::error!("{why}");
                log.files.flush();
                return ExitCode::from(BAD_SETTINGS);
            }
        };
        let files = log.files.clone();
        let mut arbiter = Arbiter::of(start).hooks(hooks).records(records);
        if let Some((source, origins)) = again {
            arbiter = arbiter.reloading(move |_| {
                let (settings, app) = source.again(&origins)?;
                Ok(loaded(settings, app, &log)?)
            });
        }
        let outcome = arbiter.run_then(|outcome| {
            if outcome.status() != 0 {
                tracing::error!("{outcome}");
            }
            files.flush();
        });
        ExitCode::from(outcome.status())
    }
}

/// The configuration, backend and application of a generation of workers.
fn loaded(settings: Settings, app: AppFactory, log: &Log) -> Result<Loaded, String> {
    let Some(backend) = settings.backend.clone() else {
        return Err("no backend was chosen, and the default one is not built in".to_owned());
    };
    let (mut arbiter, log) = (settings.arbiter.clone(), log.clone());
    arbiter.logs = log.files.clone();
    Ok(Loaded::new(arbiter, backend, app).applying(move || log.apply(&settings)))
}

/// Replaces policies of the settings by those that the program has fixed.
fn decide(settings: &mut Settings, decided: &[(PolicyId, Arc<dyn ShutdownPolicy>)]) {
    for (kind, policy) in decided {
        settings.arbiter.policies.set(*kind, policy.clone());
    }
}

/// Refuses an application that `preload` is set for and that cannot be preloaded.
fn preloadable(app: AppFactory, settings: &Settings) -> Result<AppFactory, AppError> {
    match settings.arbiter.preload && app.awaits() {
        true => Err(AppError::msg(
            "preload is true, but the application is built by an async function, which needs a runtime; allowed: \
             false, or an application built by a function that is not async",
        )),
        false => Ok(app),
    }
}

/// The problem of an application that cannot be served. `command` is the sub-command that the name
/// resembles.
fn refused(app: &AppError, command: Option<String>) -> Problem {
    let hint = command.map(|name| format!("; did you mean the command {name}?")).unwrap_or_default();
    Cause::App(format!("{app}{hint}")).into()
}

/// The program's name, from the first argument.
fn name(arguments: &[OsString]) -> String {
    let path = arguments.first().map(Path::new);
    let name = path.and_then(Path::file_name).unwrap_or_else(|| "remuda".as_ref());
    name.to_string_lossy().into_owned()
}

/// Prints the problems: with excerpts of the settings file on a terminal, elsewhere one line each,
/// so that a log keeps them apart.
fn reject(program: &str, problems: Vec<Problem>) -> u8 {
    let mut stderr = io::stderr().lock();
    // A closed standard error leaves no place for the message; the status remains.
    let _ = if stderr.is_terminal() {
        writeln!(stderr, "{:?}", miette::Report::new(Rejected { problems }))
    } else {
        problems.iter().try_for_each(|problem| writeln!(stderr, "{program}: {problem}"))
    };
    BAD_SETTINGS
}

#[cfg(test)]
mod tests;
