//! Parses policies: a name, for some with a time or a fallback behind it.

use std::sync::Arc;

use remuda_core::shutdown::{CloseIdle, Finish, Grace, Handoff, ShutdownPolicy, Spread};

use super::Settings;
use super::value::{ANY_TIME, Refusal, time};

/// The allowed values, besides the names of the program's own policies.
pub(super) const ALLOWED: &str =
    "finish, close-idle, grace:TIME, spread:TIME with a time as in 500ms, 30s, 2m, handoff, handoff,ANOTHER";

const HANDOFF: &str = "handoff";

/// The names of the built-in policies.
pub(super) const NAMES: [&str; 5] = ["finish", "close-idle", "grace", "spread", HANDOFF];

/// Parses a policy.
pub(super) fn parse(text: &str, settings: &Settings) -> Result<Arc<dyn ShutdownPolicy>, Refusal> {
    if text == HANDOFF {
        return Ok(Arc::new(Handoff::default()));
    }
    if let Some(fallback) = text.strip_prefix(HANDOFF).and_then(|rest| rest.strip_prefix(',')) {
        return match fallback.starts_with(HANDOFF) {
            true => Err(Refusal(Some(format!("but {HANDOFF} needs another policy as its fallback")))),
            false => Ok(Arc::new(Handoff(parse(fallback, settings)?))),
        };
    }
    let (name, time) = text.split_once(':').map_or((text, None), |(name, time)| (name, Some(time)));
    Ok(match (name, time) {
        ("finish", None) => Arc::new(Finish),
        ("close-idle", None) => Arc::new(CloseIdle),
        ("grace", time) => Arc::new(Grace(length(name, time)?)),
        ("spread", time) => Arc::new(Spread(length(name, time)?)),
        _ => settings.custom_policies.get(text).ok_or_else(|| unknown(settings))?.clone(),
    })
}

fn length(name: &str, text: Option<&str>) -> Result<std::time::Duration, Refusal> {
    let allowed = text.and_then(time).filter(|time| ANY_TIME.contains(time));
    allowed.ok_or_else(|| Refusal(Some(format!("but {name} takes a time, as in {name}:10s"))))
}

fn unknown(settings: &Settings) -> Refusal {
    let names: Vec<_> = settings.custom_policies.keys().map(String::as_str).collect();
    Refusal((!names.is_empty()).then(|| format!("and not a policy of this program: {}", names.join(", "))))
}

#[cfg(test)]
mod tests;
