//! One setting in one layer, unparsed.

use std::collections::BTreeMap;

use clap::ArgMatches;
use clap::parser::ValueSource;
use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider, Source};
use remuda_arbiter::Bind;

use super::setting::Setting;
use super::table::find;

/// The source of a value that is written nowhere.
pub(super) const DEFAULT: &str = "default";

/// One setting in one layer, unparsed.
pub(super) struct Entry {
    pub(super) setting: &'static Setting,
    pub(super) texts: Vec<String>,
    /// The source, for messages.
    pub(super) whence: String,
    /// The source for figment, if it is a file.
    pub(super) source: Option<Source>,
}

impl Entry {
    fn new(setting: &'static Setting, texts: Vec<String>, whence: impl Into<String>) -> Self {
        Self { setting, texts, whence: whence.into(), source: None }
    }

    pub(super) fn default_of(setting: &'static Setting) -> Self {
        Self::new(setting, vec![setting.default.to_owned()], DEFAULT)
    }

    /// Inherited listeners are used by default. They stand above the default of `bind`, below all
    /// other sources.
    pub(super) fn of_activation() -> Option<Self> {
        let setting = find("bind")?;
        Some(Self::new(setting, vec![Bind::Activated.to_string()], variable("LISTEN_FDS")))
    }

    pub(super) fn of_platform(
        setting: &'static Setting,
        variables: &BTreeMap<String, String>,
    ) -> Option<Self> {
        let platform = setting.platform?;
        // Platforms and unit files write `PORT=` to leave it unset.
        let value = variables.get(platform.variable).filter(|value| !value.is_empty())?;
        Some(Self::new(setting, vec![format!("{}{value}", platform.prefix)], variable(platform.variable)))
    }

    pub(super) fn of_variable(
        setting: &'static Setting,
        variables: &BTreeMap<String, String>,
    ) -> Option<Self> {
        let name = setting.variable();
        let value = variables.get(&name)?;
        let texts = match setting.kind.is_list() {
            true => value.split(',').map(|text| text.trim().to_owned()).collect(),
            false => vec![value.clone()],
        };
        Some(Self::new(setting, texts, variable(&name)))
    }

    pub(super) fn of_flag(setting: &'static Setting, line: &ArgMatches, whence: &str) -> Option<Self> {
        if let Some(negation) = setting.negation().filter(|name| line.get_flag(name)) {
            return Some(Self::new(setting, vec!["false".to_owned()], format!("{whence}--{negation}")));
        }
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

pub(super) fn variable(name: &str) -> String {
    format!("variable {name}")
}
