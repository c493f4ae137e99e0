//! The settings file: flat TOML, with the place of each value kept for messages.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use figment::Source;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Cause, Problem, similar};
use super::layers::Entry;
use super::table::{find, table};

/// A settings file that was read.
pub(super) struct File {
    name: String,
    text: String,
    places: BTreeMap<&'static str, Range<usize>>,
}

/// Reads the file at `path`, which messages call `name`, and gives its settings.
pub(super) fn read(path: &Path, name: String, problems: &mut Vec<Problem>) -> (File, Vec<Entry>) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| {
        problems.push(Cause::Unreadable { path: name.clone(), why: reason(&error) }.into());
        String::new()
    });
    let mut file = File { name, text: text.clone(), places: BTreeMap::new() };
    let mut entries = Vec::new();
    match DeTable::parse(&text) {
        Ok(table) => {
            let mut pairs: Vec<_> = table.into_inner().into_iter().collect();
            pairs.sort_by_key(|(key, _)| key.span().start);
            for (key, value) in pairs {
                match find(key.get_ref()) {
                    Some(setting) => {
                        file.places.insert(setting.name, value.span());
                        let texts = file.texts(&value);
                        let whence = file.line_of(key.span().start);
                        let source = Some(Source::File(path.to_owned()));
                        entries.push(Entry { setting, texts, whence, source });
                    }
                    None => problems.push(file.unknown(&key)),
                }
            }
        }
        Err(error) => {
            let at = error.span().unwrap_or_default();
            let cause =
                Cause::Syntax { whence: file.line_of(at.start), why: error.message().replace('\n', ", ") };
            problems.push(file.problem(cause, at));
        }
    }
    (file, entries)
}

impl File {
    /// The value of `setting`, which is in this file, has something wrong.
    pub(super) fn problem_with(&self, setting: &str, cause: Cause) -> Problem {
        self.problem(cause, self.places.get(setting).cloned().unwrap_or_default())
    }

    fn problem(&self, cause: Cause, at: Range<usize>) -> Problem {
        Problem::in_file(cause, &self.name, &self.text, at)
    }

    fn unknown(&self, key: &Spanned<impl AsRef<str>>) -> Problem {
        let cause = Cause::UnknownKey {
            key: key.get_ref().as_ref().to_owned(),
            whence: self.line_of(key.span().start),
            similar: similar(key.get_ref().as_ref(), table().map(|setting| setting.name.to_owned())),
        };
        self.problem(cause, key.span())
    }

    fn line_of(&self, offset: usize) -> String {
        let line = 1 + self.text.bytes().take(offset).filter(|&b| b == b'\n').count();
        format!("{} line {line}", self.name)
    }

    /// A value as the texts that a flag would have been given.
    fn texts(&self, value: &Spanned<DeValue<'_>>) -> Vec<String> {
        match value.get_ref() {
            DeValue::Array(values) => values.iter().map(|value| self.text(value)).collect(),
            _ => vec![self.text(value)],
        }
    }

    fn text(&self, value: &Spanned<DeValue<'_>>) -> String {
        match value.get_ref() {
            DeValue::String(text) => text.clone().into_owned(),
            DeValue::Integer(n) => n.to_string(),
            DeValue::Float(n) => n.to_string(),
            DeValue::Boolean(on) => on.to_string(),
            // No setting takes one: whatever refuses it shows it as it stands there.
            _ => self.text[value.span()].to_owned(),
        }
    }
}

/// What the system says, without the number of the error.
pub(super) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
