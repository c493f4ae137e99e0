//! From a command line to a running arbiter.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::{env, fmt};

use remuda_arbiter::{Arbiter, Hooks, Loaded};
use remuda_core::app::{App, AppError, AppFactory, Boot};
use remuda_core::handoff::Records;
use remuda_core::order::PolicyId;
use remuda_core::shutdown::ShutdownPolicy;
use remuda_core::worker::Worker;

use crate::client;
use crate::log::Log;
use crate::settings::{self, Action, Cause, Inputs, Invocation, Origin, Problem, Rejected, Settings};

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
    hooks: Arc<dyn Hooks>,
    records: Records,
}

enum Application {
    Given(AppFactory),
    Named(Box<Choose>),
}

type Choose = dyn Fn(Option<&str>) -> Result<AppFactory, AppError>;

impl Server {
    /// A server of what `factory` builds. It is called once in each worker, after the fork, so that nothing it
    /// makes (connections, threads, random generators) is shared by processes. With the setting `preload` it is called once
    /// in the arbiter instead, before any fork.
    pub fn new(factory: impl Fn(&Boot) -> Result<App, AppError> + Send + Sync + 'static) -> Self {
        Self::from_factory(AppFactory::new(factory))
    }

    /// A server of what `factory` builds when it has to await something on the way: it runs in each worker, after the
    /// fork and inside the backend's runtime. It cannot be preloaded.
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
    /// there is none, and gives the factory, or the sentence to refuse the name with. Called before anything is started,
    /// and again in each reload. A sub-command goes before an application of its name, which is written `./status`.
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

    /// Uses these settings, and reads neither command line nor environment nor file, also in a reload.
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
    /// use std::time::Duration;
    ///
    /// use remuda::{App, Grace, Server, demo};
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

    /// Has `hooks` called at certain moments of the server's life. Default: none; given again, the last ones count.
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    ///
    /// use remuda::{ChildExit, Hooks, Server, ServerInfo, WorkerInfo, demo};
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
    ///             println!("signal {signal} has ended worker {} after {:?}", worker.pid, exit.lived);
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

    /// For tests of upgrades between versions: which records of connections that move it reads and writes.
    #[doc(hidden)]
    #[must_use]
    pub fn records(self, records: Records) -> Self {
        Self { records, ..self }
    }

    /// What `--version` says behind the program's name. Default: the version of remuda.
    #[must_use]
    pub fn version(self, version: impl Into<String>) -> Self {
        Self { version: version.into(), ..self }
    }

    /// Serves until told to stop, or says on standard error why not. The exit status is as for
    /// [`run`](crate::run).
    pub fn run(self) -> ExitCode {
        let (hooks, records) = (self.hooks.clone(), self.records.clone());
        match self.prepare() {
            Ok(ready) => ready.serve(hooks, records),
            Err(status) => ExitCode::from(status),
        }
    }

    /// Everything that can be known before the start. The error is the exit status, once all there is to say has been
    /// said.
    fn prepare(self) -> Result<Ready, u8> {
        let Self { application, settings, arguments, version, backends, named, decided, .. } = self;
        let Some(mut settings) = settings else {
            let arguments = arguments.unwrap_or_else(|| env::args_os().collect());
            let program = name(&arguments);
            let takes_app = matches!(application, Application::Named(_));
            let command = settings::command(program.clone(), version.clone(), takes_app, &backends);
            if let Some(status) = client::run(&command, &arguments) {
                return Err(status);
            }
            let inputs = Inputs { backends, custom_policies: named, ..Inputs::of_process(arguments) };
            return Source { application, decided, version, command, inputs }.start(program);
        };
        decide(&mut settings, &decided);
        let program = "remuda".to_owned();
        let app = application.choose(None).and_then(|app| preloadable(app, &settings));
        let app = app.map_err(|error| reject(&program, vec![refused(&error)]))?;
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

/// Where settings and application come from, at the start and in each reload: the environment and the directory are those of
/// the start, the file is read again.
struct Source {
    application: Application,
    decided: Vec<(PolicyId, Arc<dyn ShutdownPolicy>)>,
    version: String,
    command: clap::Command,
    inputs: Inputs,
}

impl Source {
    fn start(self, program: String) -> Result<Ready, u8> {
        let (invocation, app) = self.read().map_err(|error| {
            // Where nobody reads, nothing is left to say it to.
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

    /// What takes the place of the settings that `origins` tells of, or everything that is wrong with it. Settings that only a
    /// new start changes stay as they are.
    fn again(&self, origins: &[Origin]) -> Result<(Settings, AppFactory), String> {
        // Where the server may have changed to since is no place to look for what relative paths mean.
        let here = env::current_dir();
        let _ = env::set_current_dir(&self.inputs.directory);
        let read = self.read();
        let _ = here.and_then(env::set_current_dir);
        let (invocation, app) = read.map_err(|error| error.to_string())?;
        let Invocation { mut settings, origins: now, problems, .. } = invocation;
        let Some(app) = app else {
            let sentences: Vec<_> = problems.iter().map(Problem::to_string).collect();
            return Err(sentences.join("; "));
        };
        for kept in settings::keep(origins, &now, &mut settings) {
            tracing::warn!("{kept} is not changed by a reload; that takes a new start");
        }
        Ok((settings, app))
    }

    /// Reads the settings; the application is there if nothing is wrong.
    fn read(&self) -> Result<(Invocation, Option<AppFactory>), clap::Error> {
        let mut invocation = settings::read(&self.command, self.inputs.clone())?;
        decide(&mut invocation.settings, &self.decided);
        invocation.settings.arbiter.version.clone_from(&self.version);
        let app = self.application.choose(invocation.app.as_deref());
        let app = app.and_then(|app| preloadable(app, &invocation.settings));
        let app = app.map_err(|error| invocation.problems.push(refused(&error))).ok();
        let is_right = invocation.problems.is_empty();
        Ok((invocation, app.filter(|_| is_right)))
    }
}

/// All that an arbiter needs.
struct Ready {
    /// Its name.
    program: String,
    settings: Settings,
    app: AppFactory,
    /// What a reload reads, and where the settings of the start came from; none: they were given by the program.
    again: Option<(Source, Vec<Origin>)>,
}

impl Ready {
    fn serve(self, hooks: Arc<dyn Hooks>, records: Records) -> ExitCode {
        let Self { program, settings, app, again } = self;
        let log = match Log::start(&settings) {
            Ok(log) => log,
            Err(cause) => return ExitCode::from(reject(&program, vec![cause.into()])),
        };
        let start = match loaded(settings, app, &log) {
            Ok(start) => start,
            Err(why) => {
                tracing::error!("{why}");
                return ExitCode::from(BAD_SETTINGS);
            }
        };
        let mut arbiter = Arbiter::of(start).hooks(hooks).records(records);
        if let Some((source, origins)) = again {
            arbiter = arbiter.reloading(move |_| {
                let (settings, app) = source.again(&origins)?;
                loaded(settings, app, &log)
            });
        }
        let outcome = arbiter.run();
        if outcome.status() != 0 {
            tracing::error!("{outcome}");
        }
        ExitCode::from(outcome.status())
    }
}

/// What a generation of workers is made of.
fn loaded(settings: Settings, app: AppFactory, log: &Log) -> Result<Loaded, String> {
    let Some(backend) = settings.backend.clone() else {
        return Err("no backend was chosen, and the default one is not built in".to_owned());
    };
    let (mut arbiter, log) = (settings.arbiter.clone(), log.clone());
    arbiter.logs = log.files.clone();
    Ok(Loaded::new(arbiter, backend, app).applying(move || log.apply(&settings)))
}

/// Puts policies that the program has decided on before those of the settings.
fn decide(settings: &mut Settings, decided: &[(PolicyId, Arc<dyn ShutdownPolicy>)]) {
    for (kind, policy) in decided {
        settings.arbiter.policies.set(*kind, policy.clone());
    }
}

/// The same application, unless it is to be preloaded and cannot be.
fn preloadable(app: AppFactory, settings: &Settings) -> Result<AppFactory, AppError> {
    match settings.arbiter.preload && app.awaits() {
        true => Err(AppError::msg(
            "preload is true, and the application is built by an async function, which takes a runtime; allowed: \
             false, or an application that is built without",
        )),
        false => Ok(app),
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
