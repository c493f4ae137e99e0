//! Kinds of values: how each is parsed, what is allowed, how it is printed and where it is stored.
//!
//! A kind contains the function that stores its value, so a setting cannot be parsed as one type
//! and stored as another.

use std::env;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use remuda_arbiter::Bind;
use remuda_core::config::Jitter;
use remuda_core::shutdown::ShutdownPolicy;
use remuda_core::trust::Trusted;
use remuda_core::worker::Format;

use super::value::{Refusal, nanos, quoted, size, time, whole};
use super::{LogTarget, Settings, bind, policy, variables};

/// The type of a setting's value.
#[derive(Debug)]
#[non_exhaustive]
pub enum Kind {
    /// A whole number.
    Count {
        /// Minimum and maximum.
        allowed: RangeInclusive<u64>,
        /// Stores it.
        set: fn(&mut Settings, u64),
    },
    /// Bytes: `8190`, or with a unit of 1024: `64K`, `16M`, `1G`.
    Size {
        /// Minimum and maximum, in bytes.
        allowed: RangeInclusive<u64>,
        /// Stores it.
        set: fn(&mut Settings, u64),
    },
    /// Seconds, `0.5`, or with another unit: `500ms`, `30s`, `2m`, `1h`.
    Time {
        /// Minimum and maximum.
        allowed: RangeInclusive<Duration>,
        /// Stores it.
        set: fn(&mut Settings, Duration),
    },
    /// `true` or `false`; the flag alone is `true`.
    Switch {
        /// Stores it.
        set: fn(&mut Settings, bool),
    },
    /// One of several words.
    Choice {
        /// The words, including those of features that are not built in.
        among: &'static [Choice],
    },
    /// A random addition to another setting: an amount in its unit, or a percentage of it: `10%`.
    Jitter {
        /// The unit of the other setting.
        of: Measure,
        /// The maximum of an amount.
        most: u64,
        /// Stores it.
        set: fn(&mut Settings, Jitter),
    },
    /// The policy of a drain.
    Policy {
        /// Stores it.
        set: fn(&mut Settings, Arc<dyn ShutdownPolicy>),
    },
    /// The name of a backend: of one in [`Settings::backends`], which takes precedence, or one of
    /// the words.
    Backend {
        /// The words.
        among: &'static [Choice],
    },
    /// A text that the setting parses itself. An empty text means none.
    Text {
        /// The placeholder in `--help`.
        placeholder: &'static str,
        /// The description of the allowed values.
        allowed: &'static str,
        /// Parses and stores it.
        set: fn(&mut Settings, Option<&str>) -> Result<(), Refusal>,
    },
    /// Environment variables; a list.
    Variables {
        /// Stores them: name and value of each.
        set: fn(&mut Settings, Vec<(String, String)>),
    },
    /// A log: a path, `-` for its usual stream, and for some logs `off`.
    Log {
        /// Whether `off` is allowed.
        may_be_off: bool,
        /// Stores it.
        set: fn(&mut Settings, Option<LogTarget>),
    },
    /// The format of the access log.
    AccessFormat {
        /// Stores it.
        set: fn(&mut Settings, Format),
    },
    /// Addresses to listen on; a list.
    Addresses {
        /// Stores them.
        set: fn(&mut Settings, Vec<Bind>),
    },
    /// Trusted peers; a list.
    Peers {
        /// Stores them.
        set: fn(&mut Settings, Trusted),
    },
}

/// The unit of a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Measure {
    /// A count.
    Count,
    /// Memory: with a unit, or in bytes.
    Bytes,
    /// Time: with a unit, or in seconds; stored in nanoseconds.
    Nanoseconds,
}

impl Measure {
    fn read(self, text: &str) -> Option<u64> {
        match self {
            Self::Count => whole(text),
            Self::Bytes => size(text),
            Self::Nanoseconds => time(text).map(nanos),
        }
    }

    /// The description of the allowed values.
    fn range(self, allowed: &RangeInclusive<u64>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (allowed.start(), allowed.end());
        match self {
            Self::Count => write!(f, "a whole number from {from} to {to}"),
            Self::Bytes => write!(f, "{from} to {to} bytes, or with a unit as in 64K, 16M, 1G"),
            Self::Nanoseconds => {
                let [from, to] = [*from, *to].map(|n| Duration::from_nanos(n).as_secs_f64());
                write!(f, "{from} to {to} seconds, or with a unit as in 500ms, 30s, 2m, 1h")
            }
        }
    }
}

/// One word of a choice.
#[derive(Debug)]
#[non_exhaustive]
pub struct Choice {
    /// The word.
    pub name: &'static str,
    /// Applies the choice, or names the feature that is not built in.
    choose: Result<fn(&mut Settings), &'static str>,
}

impl Choice {
    pub(crate) const fn new(name: &'static str, choose: fn(&mut Settings)) -> Self {
        Self { name, choose: Ok(choose) }
    }

    /// A word that is available if `feature` is built in.
    pub(crate) const fn of_feature(
        name: &'static str,
        feature: &'static str,
        choose: Option<fn(&mut Settings)>,
    ) -> Self {
        let choose = match choose {
            Some(choose) => Ok(choose),
            None => Err(feature),
        };
        Self { name, choose }
    }
}

impl Kind {
    /// Parses `written`, stores it in `settings`, and returns it as it is written in a file (TOML).
    ///
    /// # Errors
    ///
    /// The text is not a value of this kind, or the value is not allowed.
    pub fn apply(&self, written: &[String], settings: &mut Settings) -> Result<String, Refusal> {
        // The returned text is made from the value where the same value has several spellings: a
        // reload compares these texts, and `1m` instead of `60` is no change.
        match self {
            Self::Count { allowed, set } => {
                let n = whole(one(written)?).filter(|n| allowed.contains(n)).ok_or(Refusal(None))?;
                set(settings, n);
                Ok(n.to_string())
            }
            Self::Size { allowed, set } => {
                let n = size(one(written)?).filter(|n| allowed.contains(n)).ok_or(Refusal(None))?;
                set(settings, n);
                Ok(n.to_string())
            }
            Self::Time { allowed, set } => {
                let time = time(one(written)?).filter(|t| allowed.contains(t)).ok_or(Refusal(None))?;
                set(settings, time);
                Ok(time.as_secs_f64().to_string())
            }
            Self::Switch { set } => {
                let on = one(written)?.parse().map_err(|_| Refusal(None))?;
                set(settings, on);
                Ok(on.to_string())
            }
            Self::Choice { among } => {
                let word = one(written)?;
                chosen(among, word)?(settings);
                Ok(quoted(&word))
            }
            Self::Backend { among } => {
                let word = one(written)?;
                if let Some(backend) = settings.backends.iter().find(|backend| backend.name() == word) {
                    settings.backend = Some(backend.clone());
                } else {
                    chosen(among, word)?(settings);
                }
                Ok(quoted(&word))
            }
            Self::Jitter { of, most, set } => {
                let text = one(written)?;
                let jitter = match text.strip_suffix('%') {
                    Some(part) => whole(part).filter(|n| *n <= 100).map(|n| Jitter::Percent(n as u8)),
                    None => of.read(text).filter(|n| n <= most).map(Jitter::Count),
                };
                set(settings, jitter.ok_or(Refusal(None))?);
                Ok(quoted(&text))
            }
            Self::Policy { set } => {
                let text = one(written)?;
                set(settings, policy::parse(text, settings)?);
                Ok(quoted(&text))
            }
            Self::Text { set, .. } => {
                let text = one(written)?;
                set(settings, Some(text).filter(|text| !text.is_empty()))?;
                Ok(quoted(&text))
            }
            Self::Variables { set } => {
                let variables = variables::parse(written)?;
                let texts: Vec<_> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
                set(settings, variables);
                Ok(quoted(&texts))
            }
            Self::Log { may_be_off, set } => {
                let text = one(written)?;
                let target = match text {
                    "" => return Err(Refusal(None)),
                    "off" if *may_be_off => None,
                    "-" => Some(LogTarget::Stream),
                    path => Some(LogTarget::File(path.into())),
                };
                set(settings, target);
                Ok(quoted(&text))
            }
            Self::AccessFormat { set } => {
                let text = one(written)?;
                let format = Format::parse(text, |name| env::var(name).ok());
                set(settings, format.map_err(|error| Refusal(Some(format!("but {error}"))))?);
                Ok(quoted(&text))
            }
            Self::Addresses { set } => {
                let binds = bind::parse_all(written, &mut settings.names)?;
                let texts: Vec<_> = binds.iter().map(Bind::to_string).collect();
                set(settings, binds);
                Ok(quoted(&texts))
            }
            Self::Peers { set } => {
                let peers = Trusted::parse(written.iter().flat_map(|items| items.split(',')));
                let peers =
                    peers.map_err(|item| Refusal(Some(format!("but {} is invalid", quoted(&item)))))?;
                let texts = quoted(&peers.items());
                set(settings, peers);
                Ok(texts)
            }
        }
    }

    /// The allowed values, including the backends in `settings`.
    pub fn allowed(&self, settings: &Settings) -> String {
        let registered = settings.backends.iter().map(|backend| backend.name());
        match self {
            Self::Backend { among } => names(registered.chain(built_in(among))),
            _ => self.to_string(),
        }
    }

    /// The allowed words, without parameters that may follow them.
    pub(super) fn words(&self, settings: &Settings) -> impl Iterator<Item = String> {
        let registered = settings.backends.iter().map(|backend| backend.name());
        let words: Vec<String> = match self {
            Self::Backend { among } => registered.chain(built_in(among)).map(str::to_owned).collect(),
            Self::Choice { among } => built_in(among).map(str::to_owned).collect(),
            Self::Policy { .. } => {
                let own = settings.custom_policies.keys().cloned();
                policy::NAMES.into_iter().map(str::to_owned).chain(own).collect()
            }
            _ => Vec::new(),
        };
        words.into_iter()
    }

    /// Whether it takes more than one value.
    pub fn is_list(&self) -> bool {
        matches!(self, Self::Addresses { .. } | Self::Variables { .. } | Self::Peers { .. })
    }

    /// Whether its flag needs no value.
    pub fn is_switch(&self) -> bool {
        matches!(self, Self::Switch { .. })
    }

    /// The placeholder of the value in `--help`.
    pub fn placeholder(&self) -> &'static str {
        match self {
            Self::Count { .. } => "N",
            Self::Size { .. } => "BYTES",
            Self::Time { .. } => "SECONDS",
            Self::Switch { .. } => "BOOL",
            Self::Choice { .. } | Self::Backend { .. } => "NAME",
            Self::Jitter { of: Measure::Count, .. } => "N",
            Self::Jitter { of: Measure::Bytes, .. } => "BYTES",
            Self::Jitter { of: Measure::Nanoseconds, .. } => "SECONDS",
            Self::Policy { .. } => "POLICY",
            Self::Text { placeholder, .. } => placeholder,
            Self::Variables { .. } => "NAME=VALUE",
            Self::Log { .. } => "PATH",
            Self::AccessFormat { .. } => "FORMAT",
            Self::Addresses { .. } => "ADDRESS",
            Self::Peers { .. } => "NETWORK",
        }
    }
}

impl fmt::Display for Kind {
    /// The description of the allowed values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { allowed, .. } => Measure::Count.range(allowed, f),
            Self::Size { allowed, .. } => Measure::Bytes.range(allowed, f),
            Self::Time { allowed, .. } => {
                Measure::Nanoseconds.range(&(nanos(*allowed.start())..=nanos(*allowed.end())), f)
            }
            Self::Switch { .. } => f.write_str("true, false"),
            Self::Choice { among } | Self::Backend { among } => f.write_str(&names(built_in(among))),
            Self::Jitter { of, most, .. } => {
                of.range(&(0..=*most), f)?;
                f.write_str(", or a percentage as in 10%")
            }
            Self::Policy { .. } => f.write_str(policy::ALLOWED),
            Self::Text { allowed, .. } => f.write_str(allowed),
            Self::Variables { .. } => f.write_str("NAME=VALUE"),
            Self::Log { may_be_off: true, .. } => f.write_str("a path, - for standard output, off for none"),
            Self::Log { .. } => f.write_str("a path, - for standard error"),
            Self::AccessFormat { .. } => f.write_str(Format::ALLOWED),
            Self::Addresses { .. } => {
                f.write_str("HOST:PORT, [V6]:PORT, [V6%INTERFACE]:PORT, unix:PATH, unix:@NAME, fd://N, fd://NAME, systemd")
            }
            Self::Peers { .. } => f.write_str(Trusted::ALLOWED),
        }
    }
}

/// Returns the function that applies the choice `word`.
fn chosen(among: &[Choice], word: &str) -> Result<fn(&mut Settings), Refusal> {
    let choice = among.iter().find(|choice| choice.name == word).ok_or(Refusal(None))?;
    choice.choose.map_err(|feature| {
        Refusal(Some(format!("which is not built in (it needs the feature {feature} of remuda)")))
    })
}

/// The words that this build has.
fn built_in(among: &'static [Choice]) -> impl Iterator<Item = &'static str> {
    among.iter().filter(|choice| choice.choose.is_ok()).map(|choice| choice.name)
}

fn names(names: impl Iterator<Item = &'static str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "nothing in this build".to_owned() } else { names.join(", ") }
}

/// The single value of a setting that is not a list.
fn one(written: &[String]) -> Result<&str, Refusal> {
    match written {
        [text] => Ok(text),
        _ => Err(Refusal(Some("but it takes one value".into()))),
    }
}

#[cfg(test)]
mod tests;
