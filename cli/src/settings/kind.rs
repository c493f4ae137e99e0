//! Kinds of values: how each is read, what is allowed, how it is printed and where it goes.
//!
//! A kind holds the function that stores its value, so that a setting cannot be read as one type and stored as
//! another.

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
use serde::Serialize;

use super::{LogTarget, Settings, bind, policy, system};

/// What a setting may be.
#[derive(Debug)]
#[non_exhaustive]
pub enum Kind {
    /// A whole number of something.
    Count {
        /// Least and most.
        allowed: RangeInclusive<u64>,
        /// Stores it.
        set: fn(&mut Settings, u64),
    },
    /// Bytes: `8190`, or with a unit of 1024: `64K`, `16M`, `1G`.
    Size {
        /// Least and most, in bytes.
        allowed: RangeInclusive<u64>,
        /// Stores it.
        set: fn(&mut Settings, u64),
    },
    /// Seconds, `0.5`, or with another unit: `500ms`, `30s`, `2m`, `1h`.
    Time {
        /// Least and most.
        allowed: RangeInclusive<Duration>,
        /// Stores it.
        set: fn(&mut Settings, Duration),
    },
    /// Yes or no: `true`, `false`; the flag alone is yes.
    Switch {
        /// Stores it.
        set: fn(&mut Settings, bool),
    },
    /// One of several words.
    Choice {
        /// The words, those of features that are not built in among them.
        among: &'static [Choice],
    },
    /// What is added to another setting by chance: as much as that is measured in, or a part of it: `10%`.
    Jitter {
        /// What the other one is measured in.
        of: Measure,
        /// The most that it is.
        most: u64,
        /// Stores it.
        set: fn(&mut Settings, Jitter),
    },
    /// What a drain does to connections.
    Policy {
        /// Stores it.
        set: fn(&mut Settings, Arc<dyn ShutdownPolicy>),
    },
    /// The name of a backend: a word, or that of one of [`Settings::backends`], which counts first.
    Backend {
        /// The words.
        among: &'static [Choice],
    },
    /// A text that means something to its setting alone; an empty one means that there is none.
    Text {
        /// What stands for it in `--help`.
        placeholder: &'static str,
        /// What is allowed.
        allowed: &'static str,
        /// Reads and stores it.
        set: fn(&mut Settings, Option<&str>) -> Result<(), Refusal>,
    },
    /// Variables of the environment; a list.
    Variables {
        /// Stores them: name and value of each.
        set: fn(&mut Settings, Vec<(String, String)>),
    },
    /// A log: a path, `-` for the stream that is usual for it, and for some `off`.
    Log {
        /// Whether there may be none.
        may_be_off: bool,
        /// Stores it.
        set: fn(&mut Settings, Option<LogTarget>),
    },
    /// How the access log is written.
    AccessFormat {
        /// Stores it.
        set: fn(&mut Settings, Format),
    },
    /// Addresses to listen on; a list.
    Addresses {
        /// Stores them.
        set: fn(&mut Settings, Vec<Bind>),
    },
    /// Peers to believe; a list.
    Peers {
        /// Stores them.
        set: fn(&mut Settings, Trusted),
    },
}

/// What a number is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Measure {
    /// Things that are counted.
    Count,
    /// Memory; with a unit, or in bytes.
    Bytes,
    /// Time; with a unit, or in seconds, and counted in nanoseconds.
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

    /// What is allowed.
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

/// One word of a choice, and what choosing it does.
#[derive(Debug)]
#[non_exhaustive]
pub struct Choice {
    /// The word.
    pub name: &'static str,
    /// Does it; or names the feature that would have to be built in.
    choose: Result<fn(&mut Settings), &'static str>,
}

impl Choice {
    pub(crate) const fn new(name: &'static str, choose: fn(&mut Settings)) -> Self {
        Self { name, choose: Ok(choose) }
    }

    /// A word that can be chosen where `feature` is built in.
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

/// Why a value is not allowed, if more can be said than what would be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a sentence and nothing else")]
pub struct Refusal(pub Option<String>);

impl Kind {
    /// Reads what was written, stores it if it is allowed, and says how it is written in a file (TOML).
    ///
    /// # Errors
    ///
    /// It is not a value of this kind, or not an allowed one.
    pub fn apply(&self, written: &[String], settings: &mut Settings) -> Result<String, Refusal> {
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
                let variables = system::variables(written)?;
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
                let binds = bind::parse_all(written)?;
                let texts: Vec<_> = binds.iter().map(Bind::to_string).collect();
                set(settings, binds);
                Ok(quoted(&texts))
            }
            Self::Peers { set } => {
                let peers = Trusted::parse(written.iter().flat_map(|items| items.split(',')));
                let peers = peers.map_err(|item| Refusal(Some(format!("but {} is none", quoted(&item)))))?;
                let texts = quoted(&peers.items());
                set(settings, peers);
                Ok(texts)
            }
        }
    }

    /// What is allowed where `settings` says more about it.
    pub fn allowed(&self, settings: &Settings) -> String {
        let registered = settings.backends.iter().map(|backend| backend.name());
        match self {
            Self::Backend { among } => names(registered.chain(built_in(among))),
            _ => self.to_string(),
        }
    }

    /// Whether it takes more than one value.
    pub fn is_list(&self) -> bool {
        matches!(self, Self::Addresses { .. } | Self::Variables { .. } | Self::Peers { .. })
    }

    /// Whether its flag stands for a value without one.
    pub fn is_switch(&self) -> bool {
        matches!(self, Self::Switch { .. })
    }

    /// What stands for the value in `--help`.
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
    /// What is allowed.
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
                f.write_str(", or a part as in 10%")
            }
            Self::Policy { .. } => f.write_str(policy::ALLOWED),
            Self::Text { allowed, .. } => f.write_str(allowed),
            Self::Variables { .. } => f.write_str("NAME=VALUE"),
            Self::Log { may_be_off: true, .. } => f.write_str("a path, - for standard output, off for none"),
            Self::Log { .. } => f.write_str("a path, - for standard error"),
            Self::AccessFormat { .. } => f.write_str(Format::ALLOWED),
            Self::Addresses { .. } => {
                f.write_str("HOST:PORT, [V6]:PORT, unix:PATH, fd://N, fd://NAME, systemd")
            }
            Self::Peers { .. } => f.write_str(Trusted::ALLOWED),
        }
    }
}

/// What choosing `word` does.
fn chosen(among: &[Choice], word: &str) -> Result<fn(&mut Settings), Refusal> {
    let choice = among.iter().find(|choice| choice.name == word).ok_or(Refusal(None))?;
    choice.choose.map_err(|feature| {
        Refusal(Some(format!("which is not built in (it is with the feature {feature} of remuda)")))
    })
}

/// The words that can be chosen in this build.
fn built_in(among: &'static [Choice]) -> impl Iterator<Item = &'static str> {
    among.iter().filter(|choice| choice.choose.is_ok()).map(|choice| choice.name)
}

fn names(names: impl Iterator<Item = &'static str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "nothing in this build".to_owned() } else { names.join(", ") }
}

/// The value of a setting that is not a list.
fn one(written: &[String]) -> Result<&str, Refusal> {
    match written {
        [text] => Ok(text),
        _ => Err(Refusal(Some("one value is wanted".into()))),
    }
}

/// Digits and nothing else: no sign, which `parse` would take.
fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text);
    let unit = match unit {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        _ => return None,
    };
    whole(number)?.checked_mul(unit)
}

pub(super) fn time(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    // Only digits and dots are left in `number`: no sign, exponent or infinity.
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

/// As many as there are, or as a number has room for.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The number at the beginning, and what stands behind it.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// As a string or a list of strings in TOML; JSON's are valid there.
pub(super) fn quoted(text: &impl Serialize) -> String {
    serde_json::to_string(text).expect("strings always have a form in JSON")
}

#[cfg(test)]
mod tests;
