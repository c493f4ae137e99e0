//! The log: standard error, one line an event, written by whoever logs; no thread, which a fork would lose.

use std::env;
use std::io::{self, IsTerminal};

use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::{LogFormat, Settings};

/// Starts logging as the settings say, unless the program has a subscriber of its own already.
pub(crate) fn start(settings: &Settings) {
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match settings.log_format {
        LogFormat::Text => lines.with_target(false).with_ansi(is_coloured()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let filter =
        settings.log_filter.clone().unwrap_or_else(|| Targets::new().with_default(settings.log_level));
    // The one error is that there is a subscriber.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

/// On a terminal, unless its user prefers none (no-color.org).
fn is_coloured() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
