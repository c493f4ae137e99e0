//! Reads the settings: collects the layers, merges them by figment, and parses the values that win.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use figment::Figment;
use remuda_core::shutdown::ShutdownPolicy;
use remuda_core::worker::{Format, Worker};
use tracing_subscriber::filter::Targets;

use super::entry::{DEFAULT, Entry, variable};
use super::error::{Cause, Problem, similar, unknown_on_the_line};
use super::file::{self, File};
use super::setting::Setting;
use super::table::table;
use super::value::{Refusal, quoted};
use super::{CONTROL_SOCKET, Names, Settings, command, elsewhere};

/// The settings file that is read if it exists and the command line names none.
const DEFAULT_FILE: &str = "remuda.toml";

/// The variable with a whole command line, below the real one.
const ARGS: &str = "REMUDA_ARGS";

/// The variable with log levels by module, for debugging.
const LOG: &str = "REMUDA_LOG";

/// Variables `REMUDA_*` that are not settings.
const OTHERS: [&str; 3] = [ARGS, LOG, "REMUDA_UPGRADE"];

/// All sources of settings outside the program.
#[derive(Clone)]
pub(crate) struct Inputs {
    /// The command line, the program's name first.
    pub(crate) arguments: Vec<OsString>,
    /// The environment.
    pub(crate) variables: Vec<(OsString, OsString)>,
    /// The base of the settings file's path, if that is relative.
    pub(crate) directory: PathBuf,
    /// Backends that the program supplies.
    pub(crate) backends: Vec<Arc<dyn Worker>>,
    /// Policies that the program supplies.
    pub(crate) custom_policies: BTreeMap<String, Arc<dyn ShutdownPolicy>>,
    /// Whether a service manager passed on listeners.
    pub(crate) activated: bool,
    /// Addresses of host names.
    pub(crate) names: Names,
}

impl Inputs {
    /// The environment and directory of this process, with `arguments`.
    pub(crate) fn of_process(arguments: Vec<OsString>) -> Self {
        Self {
            arguments,
            variables: env::vars_os().collect(),
            // A removed directory is replaced by its name in /proc, which leads nowhere. An empty
            // path would mean the directory in which the server is by then.
            directory: env::current_dir()
                .or_else(|_| std::fs::read_link("/proc/self/cwd"))
                .unwrap_or_default(),
            backends: Vec::new(),
            custom_policies: BTreeMap::new(),
            activated: remuda_arbiter::is_socket_activated(),
            names: Names::default(),
        }
    }
}

/// The parsed invocation of the program.
pub(crate) struct Invocation {
    pub(crate) action: Action,
    /// The application named by APP.
    pub(crate) app: Option<String>,
    /// The settings, meaningless if there are problems.
    pub(crate) settings: Settings,
    /// The source of each setting, in the order of the table.
    pub(crate) origins: Vec<Origin>,
    pub(crate) problems: Vec<Problem>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Serve,
    Check,
    Print,
    /// Report problems (`doctor`).
    Examine,
}

/// The value of a setting, and its source.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) setting: &'static Setting,
    /// The texts as they were written.
    texts: Vec<String>,
    /// The value as a file has it.
    pub(crate) value: String,
    pub(crate) whence: String,
}

impl Origin {
    /// Whether the source is the default settings file.
    pub(crate) fn is_of_the_directory(&self) -> bool {
        self.whence.starts_with(DEFAULT_FILE)
    }
}

/// Reads the settings from all sources.
///
/// # Errors
///
/// The command line is invalid, or asks for `--help` or `--version`. clap prints the error.
pub(crate) fn read(command: &clap::Command, inputs: Inputs) -> Result<Invocation, clap::Error> {
    let mut problems = Vec::new();
    let flags = command.clone().try_get_matches_from(&inputs.arguments)?;
    let variables = variables(inputs.variables.clone(), &mut problems);
    let args = arguments_in_variable(command, &variables, &mut problems);
    // The first command line takes precedence.
    let mut lines = vec![(&flags, "flag ")];
    lines.extend(args.as_ref().map(|args| (args, "REMUDA_ARGS ")));
    let is_asked = |id| lines.iter().any(|(line, _)| line.get_flag(id));
    let named =
        |id| lines.iter().find_map(|(line, _)| line.try_get_one::<String>(id).ok().flatten()).cloned();

    let sources =
        Sources { lines: &lines, variables: &variables, file: named(command::CONFIG), inputs: &inputs };
    let (layers, file) = sources.layers(&mut problems);

    let settings = Settings {
        backends: inputs.backends,
        custom_policies: inputs.custom_policies,
        names: inputs.names,
        ..Settings::default()
    };
    let (mut settings, origins) = resolve(layers, settings, file.as_ref(), &mut problems);
    settings.log_filter = log_filter(&variables, &mut problems);
    let action = if flags.subcommand_name() == Some(command::DOCTOR) {
        Action::Examine
    } else if is_asked(command::CHECK) {
        Action::Check
    } else if is_asked(command::PRINT) {
        Action::Print
    } else {
        Action::Serve
    };
    Ok(Invocation { action, app: named(command::APP), settings, origins, problems })
}

/// Returns the path of the control socket for the sub-command of `line`, whose own flags are
/// `matches`. A relative path from the command line starts in the current directory; from any other
/// source, in the server's directory (`chdir`). None if the setting is empty everywhere.
///
/// Only this setting and `chdir` are read: problems of other settings must not keep operators from
/// the server.
///
/// # Errors
///
/// The path depends on the settings file, which cannot be read.
pub(crate) fn control_socket(
    command: &clap::Command,
    line: &ArgMatches,
    matches: &ArgMatches,
    inputs: Inputs,
) -> Result<Option<PathBuf>, Vec<Problem>> {
    let typed = matches.get_one::<String>(CONTROL_SOCKET);
    if let Some(path) = typed {
        return Ok(Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty()));
    }
    let mut problems = Vec::new();
    let variables = variables(inputs.variables.clone(), &mut problems);
    let args = arguments_in_variable(command, &variables, &mut problems);
    let mut lines = vec![(line, "flag ")];
    lines.extend(args.as_ref().map(|args| (args, "REMUDA_ARGS ")));
    let named = |line: &ArgMatches| line.get_one::<String>(command::CONFIG).cloned();
    let file = named(matches).or_else(|| args.as_ref().and_then(named));
    // Problems of variables and of REMUDA_ARGS do not matter here; those of the file may.
    problems.clear();
    let (layers, _) =
        Sources { lines: &lines, variables: &variables, file, inputs: &inputs }.layers(&mut problems);
    problems.retain(|problem| matches!(problem.cause, Cause::Unreadable { .. } | Cause::Syntax { .. }));
    let value = |name| {
        let entry = layers.iter().rfind(|entry| entry.setting.name == name);
        entry.and_then(|entry| entry.texts.first()).filter(|text| !text.is_empty()).map(Path::new)
    };
    match value(CONTROL_SOCKET) {
        // An unreadable file may set `chdir`, where a relative path starts. An absolute path from a
        // higher layer does not depend on the file.
        Some(path) if path.is_absolute() || problems.is_empty() => {
            Ok(Some(value("chdir").unwrap_or_else(|| Path::new("")).join(path)))
        }
        None if problems.is_empty() => Ok(None),
        _ => Err(problems),
    }
}

/// The sources of one invocation.
struct Sources<'a> {
    /// Command lines in order of precedence, with their names for messages.
    lines: &'a [(&'a ArgMatches, &'static str)],
    variables: &'a BTreeMap<String, String>,
    /// The settings file named on a command line.
    file: Option<String>,
    inputs: &'a Inputs,
}

impl Sources<'_> {
    /// Returns all entries, the lowest layer first, and the settings file, if one exists.
    fn layers(&self, problems: &mut Vec<Problem>) -> (Vec<Entry>, Option<File>) {
        let mut layers: Vec<Entry> = table().map(Entry::default_of).collect();
        layers.extend(self.inputs.activated.then(Entry::of_activation).flatten());
        let file = settings_file(self.file.clone(), &self.inputs.directory);
        let file = file.map(|(path, name)| {
            let (file, entries) = file::read(&path, name, problems);
            layers.extend(entries);
            file
        });
        layers.extend(table().filter_map(|setting| Entry::of_platform(setting, self.variables)));
        layers.extend(table().filter_map(|setting| Entry::of_variable(setting, self.variables)));
        for (line, whence) in self.lines.iter().rev() {
            layers.extend(table().filter_map(|setting| Entry::of_flag(setting, line, whence)));
        }
        (layers, file)
    }
}

/// Restores in `settings` the values that a reload must not change, from `before`. Returns the
/// names of those that would have changed.
pub(crate) fn keep(before: &[Origin], now: &[Origin], settings: &mut Settings) -> Vec<&'static str> {
    let fixed = before.iter().filter(|origin| !origin.setting.reload);
    let changed = fixed.filter(|kept| {
        now.iter().any(|origin| origin.setting.name == kept.setting.name && origin.value != kept.value)
    });
    changed
        .map(|kept| {
            // The value was accepted at the start, so that applying it again succeeds.
            let _ = kept.setting.kind.apply(&kept.texts, settings);
            kept.setting.name
        })
        .collect()
}

/// Merges the layers, lowest first, and applies the values that win to `settings`.
fn resolve(
    layers: Vec<Entry>,
    mut settings: Settings,
    file: Option<&File>,
    problems: &mut Vec<Problem>,
) -> (Settings, Vec<Origin>) {
    let figment = layers.into_iter().fold(Figment::new(), Figment::merge);
    let mut origins = Vec::new();
    for setting in table() {
        let texts: Vec<String> = figment
            .extract_inner(setting.name)
            .expect("every setting has a default, and entries are strings");
        let metadata = figment.find_metadata(setting.name).expect("whatever has a value has a source");
        let whence = metadata.name.clone().into_owned();
        match setting.kind.apply(&texts, &mut settings) {
            Ok(value) => origins.push(Origin { setting, texts, value, whence }),
            Err(Refusal(why)) => {
                // A refusal with a reason is not about a misspelt word.
                let written = texts.first().filter(|_| why.is_none());
                let similar = written.and_then(|text| meant(setting, text, &settings));
                let similar = similar.map(|word| format!("; did you mean {word}?")).unwrap_or_default();
                let cause = Cause::Value {
                    key: setting.name.into(),
                    value: if let [text] = &texts[..] { quoted(text) } else { quoted(&texts) },
                    whence,
                    why,
                    allowed: setting.kind.allowed(&settings) + &similar,
                };
                problems.push(match file.filter(|_| metadata.source.is_some()) {
                    Some(file) => file.problem_with(setting.name, cause),
                    None => cause.into(),
                });
            }
        }
    }
    problems.extend(fit_threads(&mut settings, &mut origins).map(Problem::from));
    problems.extend(fit_request_timeout(&settings, &origins).map(Problem::from));
    fill_in_variables(&mut settings, &origins);
    (settings, origins)
}

/// The allowed word that `text` resembles, or that another server's value stands for.
fn meant(setting: &Setting, text: &str, settings: &Settings) -> Option<String> {
    let word = text.split([':', ',']).next().unwrap_or(text);
    let theirs = elsewhere::value(setting.name, text).map(str::to_owned);
    theirs.or_else(|| similar(word, setting.kind.words(settings))).filter(|similar| similar != word)
}

/// Refuses a `request-timeout` that is not below `timeout` on a backend whose loop runs the
/// handlers: the worker would be ended as hung before the client could get 503.
fn fit_request_timeout(settings: &Settings, origins: &[Origin]) -> Option<Cause> {
    let backend = settings.backend.as_ref().filter(|backend| backend.max_threads() == Some(1))?;
    let worker = &settings.arbiter.worker;
    let (limit, timeout) = (worker.limits.request_timeout, worker.timeout);
    if limit.is_zero() || timeout.is_zero() || limit < timeout {
        return None;
    }
    let origin = origins.iter().find(|origin| origin.setting.name == "request-timeout")?;
    Some(Cause::Value {
        key: origin.setting.name.into(),
        value: origin.value.clone(),
        whence: origin.whence.clone(),
        why: Some(format!(
            "which is not less than timeout, {}: on {}, the worker is ended as hung before the client gets 503",
            timeout.as_secs_f64(),
            backend.name()
        )),
        allowed: "less than timeout, 0 for no limit, or more with the worker-class threaded".into(),
    })
}

/// Parses the format of the access log again if `env` sets variables: the format may contain their
/// values.
fn fill_in_variables(settings: &mut Settings, origins: &[Origin]) {
    let given = settings.arbiter.process.variables.clone();
    let origin = origins.iter().find(|origin| origin.setting.name == "access-logformat");
    let Some(text) = origin.and_then(|origin| origin.texts.first()).filter(|_| !given.is_empty()) else {
        return;
    };
    let value = |name: &str| {
        let given = given.iter().rfind(|(given, _)| given == name).map(|(_, value)| value.clone());
        given.or_else(|| env::var(name).ok())
    };
    if let Ok(format) = Format::parse(text, value) {
        settings.access_format = Arc::new(format);
    }
}

/// Limits `threads` to the maximum of the backend. An explicit value above it is refused; the
/// default is lowered silently.
fn fit_threads(settings: &mut Settings, origins: &mut [Origin]) -> Option<Cause> {
    let backend = settings.backend.as_ref()?;
    let (name, threads) = (backend.name(), &mut settings.arbiter.worker.threads);
    let most = backend.max_threads().filter(|most| *most < *threads)?;
    let origin = origins.iter_mut().find(|origin| origin.setting.name == "threads")?;
    if origin.whence == DEFAULT {
        *threads = most;
        origin.value = most.to_string();
        return None;
    }
    Some(Cause::Value {
        key: origin.setting.name.into(),
        value: origin.value.clone(),
        whence: origin.whence.clone(),
        why: Some(format!("which is more than the worker-class {name} supports")),
        allowed: format!("{most}, or more with the worker-class threaded"),
    })
}

/// Returns the path of the settings file, and its name for messages.
fn settings_file(named: Option<String>, directory: &Path) -> Option<(PathBuf, String)> {
    match named {
        Some(name) => Some((directory.join(&name), name)),
        None => {
            let path = directory.join(DEFAULT_FILE);
            // A dangling link exists as well: it is reported as unreadable rather than ignored.
            path.symlink_metadata().is_ok().then(|| (path, DEFAULT_FILE.to_owned()))
        }
    }
}

/// Selects the variables that are settings: `REMUDA_*`, and those of platforms.
fn variables(all: Vec<(OsString, OsString)>, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
    let ours = || table().map(Setting::variable).chain(OTHERS.map(str::to_owned));
    let platforms = || table().filter_map(|setting| setting.platform).map(|platform| platform.variable);
    let mut found = BTreeMap::new();
    for (name, value) in all {
        let Ok(name) = name.into_string() else { continue };
        if !name.starts_with("REMUDA_") && !platforms().any(|platform| platform == name) {
            continue;
        }
        if name.starts_with("REMUDA_") && is_of_a_service(&name, &value) {
            continue;
        }
        if name.starts_with("REMUDA_") && !ours().any(|ours| ours == name) {
            problems.push(Cause::UnknownVariable { similar: similar(&name, ours()), name }.into());
            continue;
        }
        match value.into_string() {
            Ok(value) => drop(found.insert(name, value)),
            Err(_) => problems.push(Cause::NotUnicode(name).into()),
        }
    }
    found
}

/// Whether a variable `REMUDA_*` describes a Kubernetes Service or a linked Docker container named
/// `remuda` or `remuda-…`. Every container beside it has such variables.
///
/// ```text
/// REMUDA_SERVICE_HOST  REMUDA_SERVICE_PORT  REMUDA_SERVICE_PORT_HTTP  REMUDA_WEB_SERVICE_HOST ...
/// REMUDA_PORT=tcp://10.0.0.1:80  REMUDA_PORT_80_TCP=tcp://...
/// REMUDA_PORT_80_TCP_PROTO, _PORT, _ADDR ...
/// ```
fn is_of_a_service(name: &str, value: &OsStr) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let words: Vec<&str> = name.split('_').skip(1).collect();
    if words.windows(2).any(|two| two == ["SERVICE", "HOST"] || two == ["SERVICE", "PORT"]) {
        return true;
    }
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = |three: &[&str]| three[0] == "PORT" && is_number(three[1]) && PROTOCOLS.contains(&three[2]);
    if words.windows(3).any(is_port) {
        return true;
    }
    // A setting may have such a name, too (REMUDA_REUSE_PORT), but no setting has a URL of these
    // schemes as its value.
    let is_url = |value: &str| {
        PROTOCOLS.iter().any(|protocol| {
            let scheme = value.split_once("://").map(|(scheme, _)| scheme);
            scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(protocol))
        })
    };
    words.last() == Some(&"PORT") && value.to_str().is_some_and(is_url)
}

/// Parses `REMUDA_ARGS`, split into words as a shell does.
fn arguments_in_variable(
    command: &clap::Command,
    variables: &BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) -> Option<ArgMatches> {
    let value = variables.get(ARGS)?;
    let matches = shlex::split(value).ok_or_else(|| "a quote is not closed".to_owned()).and_then(|words| {
        let line = command.clone().no_binary_name(true).disable_help_flag(true).disable_version_flag(true);
        let matches = line.try_get_matches_from(&words).map_err(|error| {
            let words: Vec<_> = [ARGS.to_owned()].into_iter().chain(words).map(OsString::from).collect();
            unknown_on_the_line(&error, command, &words)
                .map_or_else(|| summary(&error), |problem| problem.to_string())
        })?;
        match matches.subcommand_name() {
            Some(name) => Err(format!("{name} is a command, not a setting")),
            None => Ok(matches),
        }
    });
    matches.map_err(|why| problems.push(Cause::Arguments { value: value.clone(), why }.into())).ok()
}

/// The first line of clap's error.
fn summary(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn log_filter(variables: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Option<Targets> {
    let text = variables.get(LOG).filter(|text| !text.is_empty())?;
    let problem = |error| Cause::Value {
        key: "log filter".into(),
        value: quoted(text),
        whence: variable(LOG),
        why: Some(format!("{error}")),
        allowed: "levels by module, such as info,remuda_core=debug".into(),
    };
    text.parse()
        .map_err(|error: tracing_subscriber::filter::ParseError| problems.push(problem(error).into()))
        .ok()
}

#[cfg(test)]
mod tests;
