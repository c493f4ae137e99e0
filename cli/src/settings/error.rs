//! What can be wrong with settings: each sentence names the setting, where it was written, the value and what
//! is allowed.

use std::ops::Range;

use miette::{Diagnostic, NamedSource, SourceSpan};
use thiserror::Error;

/// Why nothing was started.
#[derive(Debug, Error, Diagnostic)]
#[error("nothing was started, because of its settings")]
#[non_exhaustive]
pub struct Rejected {
    /// Everything that is wrong, not only the first of it.
    #[related]
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, and its place if that is in a file.
#[derive(Debug, Error, Diagnostic)]
#[error("{cause}")]
#[non_exhaustive]
pub struct Problem {
    /// What is wrong.
    pub cause: Cause,
    #[source_code]
    file: Option<NamedSource<String>>,
    #[label]
    at: Option<SourceSpan>,
}

impl Problem {
    /// Shows where in the file called `name` it is.
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

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Cause {
    /// A value is not allowed.
    #[error("{key} is {value} ({whence}){}; allowed: {allowed}", clause(.why))]
    Value {
        /// The setting.
        key: String,
        /// What was written.
        value: String,
        /// Where: a flag, a variable, or a file and line.
        whence: String,
        /// More about it.
        why: Option<String>,
        /// What is allowed.
        allowed: String,
    },
    /// A key in the file that is no setting.
    #[error("unknown setting {key:?} ({whence}); {}", hint(.similar))]
    UnknownKey {
        /// The key.
        key: String,
        /// File and line.
        whence: String,
        /// A setting that is written similarly.
        similar: Option<String>,
    },
    /// A variable that looks like ours and is no setting.
    #[error("unknown variable {name}; {}", hint(.similar))]
    UnknownVariable {
        /// Its name.
        name: String,
        /// A variable that is written similarly.
        similar: Option<String>,
    },
    /// A variable's value is not text.
    #[error("the value of {0} is not UTF-8")]
    NotUnicode(String),
    /// `REMUDA_ARGS` is not a command line.
    #[error("REMUDA_ARGS is {value:?}: {why}")]
    Arguments {
        /// What was written.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file cannot be read.
    #[error("cannot read the settings file {path:?}: {why}")]
    Unreadable {
        /// Its path.
        path: String,
        /// What the system says.
        why: String,
    },
    /// The file is not TOML.
    #[error("{whence} is not TOML: {why}")]
    Syntax {
        /// File and line.
        whence: String,
        /// What the parser says.
        why: String,
    },
    /// A log cannot be opened.
    #[error("{key} is {path:?}, which cannot be opened: {why}; allowed: a file that can be appended to")]
    Log {
        /// The setting.
        key: String,
        /// What was written.
        path: String,
        /// What the system says.
        why: String,
    },
    /// The application that was asked for cannot be served.
    #[error("{0}")]
    App(String),
}

fn clause(why: &Option<String>) -> String {
    why.as_ref().map(|why| format!(", {why}")).unwrap_or_default()
}

fn hint(similar: &Option<String>) -> String {
    match similar {
        Some(name) => format!("did you mean {name}?"),
        None => "--help lists the settings there are".into(),
    }
}

/// The one of `names` that `written` was probably meant to be.
pub(super) fn similar(written: &str, names: impl Iterator<Item = String>) -> Option<String> {
    /// Where two names are alike enough to be one and the same, misspelt: what clap uses for flags.
    const ALIKE: f64 = 0.7;
    names
        .map(|name| (strsim::jaro(written, &name), name))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}
