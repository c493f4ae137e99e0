//! Where values come from: layers of what was written, merged by figment, and what the winning ones mean.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use clap::parser::ValueSource;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use remuda_arbiter::Bind;
use remuda_core::shutdown::ShutdownPolicy;
use remuda_core::worker::Worker;
use tracing_subscriber::filter::Targets;

use super::error::{Cause, Problem, similar};
use super::file::{self, File};
use super::kind::{Refusal, quoted};
use super::table::{Setting, find, table};
use super::{Settings, command};
use crate::client;

/// The file that is read, if it is there, when the command line names none.
const DEFAULT_FILE: &str = "remuda.toml";

/// The source of what was not written anywhere.
const DEFAULT: &str = "default";

/// A whole command line, below the real one.
const ARGS: &str = "REMUDA_ARGS";

/// Levels of the log by part, for whoever looks for a fault.
const LOG: &str = "REMUDA_LOG";

/// Variables of ours that are no settings.
const OTHERS: [&str; 3] = [ARGS, LOG, "REMUDA_UPGRADE"];

/// Everything outside the program that settings are read from.
#[derive(Clone)]
pub(crate) struct Inputs {
    /// The command line, the program's name first.
    pub(crate) arguments: Vec<OsString>,
    /// The environment.
    pub(crate) variables: Vec<(OsString, OsString)>,
    /// What the settings file's path starts from, if it is relative.
    pub(crate) directory: PathBuf,
    /// Backends that the program brings itself.
    pub(crate) backends: Vec<Arc<dyn Worker>>,
    /// Policies, likewise.
    pub(crate) custom_policies: BTreeMap<String, Arc<dyn ShutdownPolicy>>,
    /// Whether a service manager has passed listeners on.
    pub(crate) activated: bool,
}

impl Inputs {
    /// The process's own environment and directory, with `arguments`.
    pub(crate) fn of_process(arguments: Vec<OsString>) -> Self {
        Self {
            arguments,
            variables: env::vars_os().collect(),
            // Where it cannot be known, relative paths are as good as before.
            directory: env::current_dir().unwrap_or_default(),
            backends: Vec::new(),
            custom_policies: BTreeMap::new(),
            activated: remuda_arbiter::is_socket_activated(),
        }
    }
}

/// What the program was asked to do.
pub(crate) struct Invocation {
    /// The thing to do.
    pub(crate) action: Action,
    /// The application that was named.
    pub(crate) app: Option<String>,
    /// The settings; meaningless if there are problems.
    pub(crate) settings: Settings,
    /// Where each setting is from, in the order of the table.
    pub(crate) origins: Vec<Origin>,
    /// Everything that is wrong.
    pub(crate) problems: Vec<Problem>,
}

/// What to do with the settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Serve,
    Check,
    Print,
    /// Look for what will hurt.
    Examine,
}

/// A setting's value and where it is from.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) setting: &'static Setting,
    /// As it was written.
    texts: Vec<String>,
    /// As in a file.
    pub(crate) value: String,
    pub(crate) whence: String,
}

/// Reads the settings from everywhere they may be.
///
/// # Errors
///
/// The command line is not one, or asks for `--help` or `--version`: what clap then prints.
pub(crate) fn read(command: &clap::Command, inputs: Inputs) -> Result<Invocation, clap::Error> {
    let mut problems = Vec::new();
    let flags = command.clone().try_get_matches_from(&inputs.arguments)?;
    let variables = variables(inputs.variables, &mut problems);
    let args = arguments_in_variable(command, &variables, &mut problems);
    // The line that counts first is the first.
    let mut lines = vec![(&flags, "flag ")];
    lines.extend(args.as_ref().map(|args| (args, "REMUDA_ARGS ")));
    let is_asked = |id| lines.iter().any(|(line, _)| line.get_flag(id));
    let named =
        |id| lines.iter().find_map(|(line, _)| line.try_get_one::<String>(id).ok().flatten()).cloned();

    let mut layers: Vec<Entry> = table().map(Entry::default_of).collect();
    layers.extend(inputs.activated.then(Entry::of_activation).flatten());
    let file = settings_file(named(command::CONFIG), &inputs.directory);
    let file = file.map(|(path, name)| {
        let (file, entries) = file::read(&path, name, &mut problems);
        layers.extend(entries);
        file
    });
    layers.extend(table().filter_map(|setting| Entry::of_platform(setting, &variables)));
    layers.extend(table().filter_map(|setting| Entry::of_variable(setting, &variables)));
    for (line, whence) in lines.iter().rev() {
        layers.extend(table().filter_map(|setting| Entry::of_flag(setting, line, whence)));
    }

    let settings = Settings {
        backends: inputs.backends,
        custom_policies: inputs.custom_policies,
        ..Settings::default()
    };
    let (mut settings, origins) = resolve(layers, settings, file.as_ref(), &mut problems);
    settings.log_filter = log_filter(&variables, &mut problems);
    let action = if flags.subcommand_name() == Some(client::DOCTOR) {
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

/// Gives those `settings` that no reload changes the values that they had, of which `before` tells; names those that were
/// to change.
pub(crate) fn keep(before: &[Origin], now: &[Origin], settings: &mut Settings) -> Vec<&'static str> {
    let fixed = before.iter().filter(|origin| !origin.setting.reload);
    let changed = fixed.filter(|kept| {
        now.iter().any(|origin| origin.setting.name == kept.setting.name && origin.value != kept.value)
    });
    changed
        .map(|kept| {
            // It was allowed before, with whatever it refers to.
            let _ = kept.setting.kind.apply(&kept.texts, settings);
            kept.setting.name
        })
        .collect()
}

/// One setting in one layer, as it was written.
pub(super) struct Entry {
    pub(super) setting: &'static Setting,
    pub(super) texts: Vec<String>,
    /// Where, for people.
    pub(super) whence: String,
    /// Where, if that is a file.
    pub(super) source: Option<Source>,
}

impl Entry {
    fn new(setting: &'static Setting, texts: Vec<String>, whence: impl Into<String>) -> Self {
        Self { setting, texts, whence: whence.into(), source: None }
    }

    fn default_of(setting: &'static Setting) -> Self {
        Self::new(setting, vec![setting.default.to_owned()], DEFAULT)
    }

    /// Who is given listeners is to use them, unless told otherwise.
    fn of_activation() -> Option<Self> {
        let setting = find("bind")?;
        Some(Self::new(setting, vec![Bind::Activated.to_string()], variable("LISTEN_FDS")))
    }

    fn of_platform(setting: &'static Setting, variables: &BTreeMap<String, String>) -> Option<Self> {
        let platform = setting.platform?;
        let value = variables.get(platform.variable)?;
        Some(Self::new(setting, vec![format!("{}{value}", platform.prefix)], variable(platform.variable)))
    }

    fn of_variable(setting: &'static Setting, variables: &BTreeMap<String, String>) -> Option<Self> {
        let name = setting.variable();
        let value = variables.get(&name)?;
        let texts = match setting.kind.is_list() {
            true => value.split(',').map(|text| text.trim().to_owned()).collect(),
            false => vec![value.clone()],
        };
        Some(Self::new(setting, texts, variable(&name)))
    }

    fn of_flag(setting: &'static Setting, line: &ArgMatches, whence: &str) -> Option<Self> {
        if line.value_source(setting.name) != Some(ValueSource::CommandLine) {
            return None;
        }
        let texts = line.get_many::<String>(setting.name)?.cloned().collect();
        Some(Self::new(setting, texts, format!("{whence}--{}", setting.name)))
    }
}

impl Provider for Entry {
    fn metadata(&self) -> Metadata {
        let metadata = Metadata::named(self.whence.clone());
        match &self.source {
            Some(source) => metadata.source(source.clone()),
            None => metadata,
        }
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let value = Value::from(self.texts.clone());
        Ok(Profile::Default.collect(Dict::from([(self.setting.name.to_owned(), value)])))
    }
}

/// Merges the layers, lowest first, and reads what is left on top into `settings`.
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
                let cause = Cause::Value {
                    key: setting.name.into(),
                    value: if let [text] = &texts[..] { quoted(text) } else { quoted(&texts) },
                    whence,
                    why,
                    allowed: setting.kind.allowed(&settings),
                };
                problems.push(match file.filter(|_| metadata.source.is_some()) {
                    Some(file) => file.problem_with(setting.name, cause),
                    None => cause.into(),
                });
            }
        }
    }
    problems.extend(fit_threads(&mut settings, &mut origins).map(Problem::from));
    (settings, origins)
}

/// A backend may have fewer threads than there are: nobody who has not asked for more is refused for that.
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
        why: Some(format!("which is more than the worker-class {name} has")),
        allowed: format!("{most}, or more with the worker-class threaded"),
    })
}

/// The file to read, and what to call it.
fn settings_file(named: Option<String>, directory: &Path) -> Option<(PathBuf, String)> {
    match named {
        Some(name) => Some((directory.join(&name), name)),
        None => {
            let path = directory.join(DEFAULT_FILE);
            // Also a link to nowhere is there, and somebody meant something by it.
            path.symlink_metadata().is_ok().then(|| (path, DEFAULT_FILE.to_owned()))
        }
    }
}

/// The variables that are settings, ours and the platforms'.
fn variables(all: Vec<(OsString, OsString)>, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
    let ours = || table().map(Setting::variable).chain(OTHERS.map(str::to_owned));
    let platforms = || table().filter_map(|setting| setting.platform).map(|platform| platform.variable);
    let mut found = BTreeMap::new();
    for (name, value) in all {
        let Ok(name) = name.into_string() else { continue };
        if !name.starts_with("REMUDA_") && !platforms().any(|platform| platform == name) {
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

/// `REMUDA_ARGS`, taken apart as a shell would.
fn arguments_in_variable(
    command: &clap::Command,
    variables: &BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) -> Option<ArgMatches> {
    let value = variables.get(ARGS)?;
    let matches = shlex::split(value).ok_or_else(|| "a quote is not closed".to_owned()).and_then(|words| {
        let line = command.clone().no_binary_name(true).disable_help_flag(true).disable_version_flag(true);
        let matches = line.try_get_matches_from(words).map_err(|error| summary(&error))?;
        match matches.subcommand_name() {
            Some(name) => Err(format!("{name} is a command and no setting")),
            None => Ok(matches),
        }
    });
    matches.map_err(|why| problems.push(Cause::Arguments { value: value.clone(), why }.into())).ok()
}

/// The first line of what clap says.
fn summary(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn log_filter(variables: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Option<Targets> {
    let text = variables.get(LOG)?;
    let problem = |error| Cause::Value {
        key: "the log's filter".into(),
        value: quoted(text),
        whence: variable(LOG),
        why: Some(format!("{error}")),
        allowed: "levels by part, such as info,remuda_core=debug".into(),
    };
    text.parse()
        .map_err(|error: tracing_subscriber::filter::ParseError| problems.push(problem(error).into()))
        .ok()
}

fn variable(name: &str) -> String {
    format!("variable {name}")
}

#[cfg(test)]
mod tests;
