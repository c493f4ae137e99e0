//! The logs: the program's own, one line an event, written by whoever logs; no thread, which a fork would lose. And the
//! file of the access log, which workers write.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::{env, fmt, process};

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
        // The one error is that there is a subscriber.
        let _ = tracing_subscriber::registry().with(to_lines.with_filter(to_filter)).try_init();

        let mut files = Logs::default();
        files.error = Some(error.clone());
        files.access = access.map(|file| (file, settings.access_format.clone()));
        Ok(Self { files, error, lines, filter })
    }

    /// Goes on as other settings say, in the same files.
    pub(crate) fn apply(&self, settings: &Settings) {
        // The one error is that there was a subscriber, and this log is none.
        let _ = self.lines.reload(lines(settings, &self.error));
        let _ = self.filter.reload(filter(settings));
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
