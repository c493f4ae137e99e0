//! The logs: the program's own, one line an event, written by whoever logs; no thread, which a fork would lose. And the
//! file of the access log, which workers write.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::{env, fmt, process};

use remuda_core::order::Level;
use remuda_core::worker::log_level;
use remuda_core::worker::{LogFile, Logs};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Json, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::settings::{Cause, LogFormat, LogTarget, Settings};

/// The logs of this server. Level and format of its own can be changed while it is written.
#[derive(Clone)]
pub(crate) struct Log {
    /// The files, which stay.
    pub(crate) files: Logs,
    error: Arc<LogFile>,
    lines: reload::Handle<Lines, Registry>,
    filter: reload::Handle<Targets, Registry>,
    /// What the settings said last: until they say something else, what an operator has said counts.
    said: Arc<Mutex<Targets>>,
}

type Lines = Box<dyn Layer<Registry> + Send + Sync>;

impl Log {
    /// Opens the logs, and starts logging as the settings say, unless the program has a subscriber of its own already.
    pub(crate) fn start(settings: &Settings) -> Result<Self, Cause> {
        let error = open("error-logfile", &settings.error_log, io::stderr())?;
        let access = settings.access_log.as_ref();
        let access = access.map(|target| open("access-logfile", target, io::stdout())).transpose()?;

        let (to_lines, lines) = reload::Layer::new(lines(settings, &error));
        let (to_filter, filter) = reload::Layer::new(filter(settings));
        // The one error is that there is a subscriber, whose level is not this program's to change.
        if tracing_subscriber::registry().with(to_lines.with_filter(to_filter)).try_init().is_ok() {
            let filter = filter.clone();
            log_level::on_change(move |level| {
                if let Err(error) = filter.reload(Targets::new().with_default(tracing_level(level))) {
                    tracing::warn!("the level of the log stays as it is: {error}");
                }
            });
        }

        let mut files = Logs::default();
        files.error = Some(error.clone());
        files.access = access.map(|file| (file, settings.access_format.clone()));
        let said = Arc::new(Mutex::new(self::filter(settings)));
        Ok(Self { files, error, lines, filter, said })
    }

    /// Goes on as other settings say, in the same files.
    pub(crate) fn apply(&self, settings: &Settings) {
        // The one error is that there was a subscriber, and this log is none.
        let _ = self.lines.reload(lines(settings, &self.error));
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != filter(settings) {
            *said = filter(settings);
            let _ = self.filter.reload(said.clone());
        }
    }
}

fn lines(settings: &Settings, error: &Arc<LogFile>) -> Lines {
    let lines = layer().with_writer(error.clone()).log_internal_errors(false);
    match settings.log_format {
        LogFormat::Text => {
            let is_coloured = settings.error_log == LogTarget::Stream && is_coloured();
            lines.with_target(false).with_ansi(is_coloured).with_timer(TimeAndPid).boxed()
        }
        LogFormat::Json => lines.json().event_format(WithPid(format().json())).boxed(),
    }
}

fn filter(settings: &Settings) -> Targets {
    settings.log_filter.clone().unwrap_or_else(|| Targets::new().with_default(settings.log_level))
}

fn open(key: &str, target: &LogTarget, stream: impl AsFd) -> Result<Arc<LogFile>, Cause> {
    let (path, opened) = match target {
        LogTarget::Stream => ("-".into(), stream.as_fd().try_clone_to_owned().map(LogFile::stream)),
        LogTarget::File(path) => (path.to_string_lossy(), LogFile::open(path)),
    };
    opened.map(Arc::new).map_err(|error| Cause::Log {
        key: key.into(),
        path: path.into(),
        why: error.to_string(),
    })
}

fn tracing_level(level: Level) -> tracing::Level {
    match level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
        Level::Trace => tracing::Level::TRACE,
    }
}

/// On a terminal, unless its user prefers none (no-color.org).
fn is_coloured() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Which process has written a line, behind the time: `2026-11-22T16:43:07.250316Z [4711]`.
struct TimeAndPid;

impl FormatTime for TimeAndPid {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        SystemTime.format_time(out)?;
        write!(out, " [{}]", process::id())
    }
}

/// The same as the first member of an object.
struct WithPid(Format<Json>);

impl<S, N> FormatEvent<S, N> for WithPid
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(cx, Writer::new(&mut line), event)?;
        let members = line.strip_prefix('{').unwrap_or(&line);
        write!(out, "{{\"pid\":{},{members}", process::id())
    }
}
