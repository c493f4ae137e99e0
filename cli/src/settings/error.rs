//! Errors in settings. Each message names the setting, its source, the value and the allowed
//! values.

use std::ffi::OsString;
use std::ops::Range;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use miette::{Diagnostic, NamedSource, SourceSpan};
use thiserror::Error;

use super::elsewhere;
use super::setting::Setting;

/// All problems for which the server was not started.
#[derive(Debug, Error, Diagnostic)]
#[error("the server was not started because of its settings")]
#[non_exhaustive]
pub struct Rejected {
    /// Every problem, not only the first.
    #[related]
    pub problems: Vec<Problem>,
}

/// One problem, with its place if that is in a file.
#[derive(Debug, Error, Diagnostic)]
#[error("{cause}")]
#[non_exhaustive]
pub struct Problem {
    /// The fault.
    pub cause: Cause,
    #[source_code]
    file: Option<NamedSource<String>>,
    #[label]
    at: Option<SourceSpan>,
}

impl Problem {
    /// Adds the place `at` in the file `name`.
    pub(super) fn in_file(cause: Cause, name: &str, text: &str, at: Range<usize>) -> Self {
        let file = NamedSource::new(name, text.to_owned()).with_language("TOML");
        Self { cause, file: Some(file), at: Some(at.into()) }
    }
}

impl From<Cause> for Problem {
    fn from(cause: Cause) -> Self {
        Self { cause, file: None, at: None }
    }
}

/// The fault of a problem.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Cause {
    /// A value is not allowed.
    #[error("{key} is {value} ({whence}){}; allowed: {allowed}", clause(.why))]
    Value {
        /// The setting.
        key: String,
        /// As it was written.
        value: String,
        /// Its source: a flag, a variable, or a file and line.
        whence: String,
        /// A more precise reason.
        why: Option<String>,
        /// The allowed values, and a suggestion.
        allowed: String,
    },
    /// A flag of another server, or an unknown command.
    #[error("unknown {what} {name:?}; {hint}")]
    UnknownWord {
        /// `flag` or `command`.
        what: &'static str,
        /// As it was written.
        name: String,
        /// A suggestion, or the counterpart here.
        hint: String,
    },
    /// A section in the file, which is flat.
    #[error(
        "[{name}] ({whence}) is a section, and a settings file has no sections; write its settings at the top of the file"
    )]
    Section {
        /// Its name.
        name: String,
        /// File and line.
        whence: String,
    },
    /// A key in the file that is not a setting.
    #[error("unknown setting {key:?} ({whence}); {}", hint(key, |setting| setting.name.to_owned(), .similar))]
    UnknownKey {
        /// The key.
        key: String,
        /// File and line.
        whence: String,
        /// A setting with a similar name.
        similar: Option<String>,
    },
    /// A variable `REMUDA_*` that is not a setting.
    #[error("unknown variable {name}; {}", hint(name.trim_start_matches("REMUDA_"), Setting::variable, .similar))]
    UnknownVariable {
        /// Its name.
        name: String,
        /// A variable with a similar name.
        similar: Option<String>,
    },
    /// A variable's value is not text.
    #[error("the value of {0} is not UTF-8")]
    NotUnicode(String),
    /// `REMUDA_ARGS` is not a command line.
    #[error("REMUDA_ARGS is {value:?}: {why}")]
    Arguments {
        /// As it was written.
        value: String,
        /// The fault in it.
        why: String,
    },
    /// The file cannot be read.
    #[error("cannot read the settings file {path:?}: {why}")]
    Unreadable {
        /// Its path.
        path: String,
        /// The error of the system.
        why: String,
    },
    /// The file is not TOML.
    #[error("{whence} is not TOML: {why}")]
    Syntax {
        /// File and line.
        whence: String,
        /// The error of the parser.
        why: String,
    },
    /// A log cannot be opened.
    #[error("{key} is {path:?}, which cannot be opened: {why}; allowed: a file that can be appended to")]
    Log {
        /// The setting.
        key: String,
        /// As it was written.
        path: String,
        /// The error of the system.
        why: String,
    },
    /// The application cannot be served.
    #[error("{0}")]
    App(String),
}

fn clause(why: &Option<String>) -> String {
    why.as_ref().map(|why| format!(", {why}")).unwrap_or_default()
}

/// A counterpart of another server's name takes precedence over a similar name.
fn hint(unknown: &str, call: fn(&Setting) -> String, similar: &Option<String>) -> String {
    match (elsewhere::advice(unknown, call), similar) {
        (Some(advice), _) => advice,
        (None, Some(name)) => format!("did you mean {name}?"),
        (None, None) => "--help lists all settings".into(),
    }
}

/// Improves two of clap's errors about unknown arguments: for a flag of another server, and for a
/// misspelt command in front of it.
pub(crate) fn unknown_on_the_line(
    error: &clap::Error,
    command: &clap::Command,
    words: &[OsString],
) -> Option<Problem> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let ContextValue::String(flag) = error.get(ContextKind::InvalidArg)? else { return None };
    let flag = flag.split('=').next().unwrap_or(flag);
    if let Some(hint) = elsewhere::advice(flag, elsewhere::as_flag) {
        return Some(Cause::UnknownWord { what: "flag", name: flag.to_owned(), hint }.into());
    }
    let first = words.get(1)?.to_str().filter(|word| !word.starts_with('-'))?;
    let similar = nearly_a_command(first, command)?;
    let hint = format!("did you mean {similar}?");
    Some(Cause::UnknownWord { what: "command", name: first.to_owned(), hint }.into())
}

/// The sub-command that resembles `word`. None if `word` is one.
pub(crate) fn nearly_a_command(word: &str, command: &clap::Command) -> Option<String> {
    let names = || command.get_subcommands().map(|sub| sub.get_name().to_owned());
    similar(word, names()).filter(|_| !names().any(|name| name == word))
}

/// The most similar of `names`, if it is similar enough.
pub(super) fn similar(written: &str, names: impl Iterator<Item = String>) -> Option<String> {
    /// The similarity above which one name counts as a misspelling of the other; clap uses it for
    /// flags.
    const ALIKE: f64 = 0.7;
    names
        .map(|name| (strsim::jaro(written, &name), name))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}
