//! Reads the settings file: flat TOML. The place of each value is kept for messages.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use figment::Source;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::entry::Entry;
use super::error::{Cause, Problem, similar};
use super::table::{find, table};
use super::value::reason;

/// The text of a settings file, and the places of its values.
pub(super) struct File {
    name: String,
    text: String,
    places: BTreeMap<&'static str, Range<usize>>,
}

/// Reads the file at `path` and returns its settings. Messages call it `name`.
pub(super) fn read(path: &Path, name: String, problems: &mut Vec<Problem>) -> (File, Vec<Entry>) {
    // An unreadable file counts as empty, so that problems of other sources are reported as well.
    let text = fs::read_to_string(path).unwrap_or_else(|error| {
        problems.push(Cause::Unreadable { path: name.clone(), why: reason(&error) }.into());
        String::new()
    });
    let mut file = File { name, text: text.clone(), places: BTreeMap::new() };
    let mut entries = Vec::new();
    match DeTable::parse(&text) {
        Ok(table) => {
            let mut pairs: Vec<_> = table.into_inner().into_iter().collect();
            // Problems are reported in the order of the file.
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
                    None if matches!(value.get_ref(), DeValue::Table(_)) => {
                        problems.push(file.section(&key));
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
    /// Makes a problem of `cause`, placed at the value of `setting`.
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

    fn section(&self, key: &Spanned<impl AsRef<str>>) -> Problem {
        let (name, whence) = (key.get_ref().as_ref().to_owned(), self.line_of(key.span().start));
        self.problem(Cause::Section { name, whence }, key.span())
    }

    fn line_of(&self, offset: usize) -> String {
        let line = 1 + self.text.bytes().take(offset).filter(|&b| b == b'\n').count();
        format!("{} line {line}", self.name)
    }

    /// Converts a value to the texts that a flag would take.
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
            // No setting takes a value of these types, and the refusal quotes the text of the file.
            _ => self.text[value.span()].to_owned(),
        }
    }
}
