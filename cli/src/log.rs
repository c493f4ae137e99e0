//! The logs. The program's own log has one line an event, written directly by the process that logs
//! it: a writer thread would be lost in a fork. Workers write the access log. Panics are lines of
//! the program's own log, too.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::error::Error;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::sync::{Arc, Mutex, PoisonError};
use std::{env, fmt, process, ptr, thread};

use remuda_core::order::Level;
use remuda_core::worker::logs::level;
use remuda_core::worker::{LogFile, Logs};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::{RecordFields, VisitOutput as _};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{DefaultVisitor, Format, Full, Json, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::settings::{Cause, LogFormat, LogTarget, Settings};

/// The logs of this server. Level and format of the program's own log can change at run time.
#[derive(Clone)]
pub(crate) struct Log {
    /// The files, which a reload does not change.
    pub(crate) files: Logs,
    error: Arc<LogFile>,
    lines: reload::Handle<Lines, Registry>,
    filter: reload::Handle<Targets, Registry>,
    /// The filter of the last settings. A level set by an operator applies until a reload brings a
    /// different filter.
    said: Arc<Mutex<Targets>>,
}

type Lines = Box<dyn Layer<Registry> + Send + Sync>;

impl Log {
    /// Opens the logs, and starts logging according to the settings, unless the program already has
    /// a subscriber of its own.
    pub(crate) fn start(settings: &Settings) -> Result<Self, Cause> {
        let error = open("error-logfile", &settings.error_log, io::stderr())?;
        let access = settings.access_log.as_ref();
        let access = access.map(|target| open("access-logfile", target, io::stdout())).transpose()?;

        let (to_lines, lines) = reload::Layer::new(lines(settings, &error));
        let (to_filter, filter) = reload::Layer::new(filter(settings));
        // Fails only if the program has its own subscriber, whose level and panic hook then stay
        // untouched.
        if tracing_subscriber::registry().with(to_lines.with_filter(to_filter)).try_init().is_ok() {
            log_panics();
            let filter = filter.clone();
            level::on_change(move |level| {
                if let Err(error) = filter.reload(Targets::new().with_default(tracing_level(level))) {
                    tracing::warn!("cannot change the log level: {error}");
                }
            });
        }

        let mut files = Logs::default();
        files.error = Some(error.clone());
        files.access = access.map(|file| (file, settings.access_format.clone()));
        let said = Arc::new(Mutex::new(self::filter(settings)));
        Ok(Self { files, error, lines, filter, said })
    }

    /// Applies new settings, in the same files.
    pub(crate) fn apply(&self, settings: &Settings) {
        // Fails only if the program has its own subscriber, so that this log was never installed.
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
            let line = Once(format().with_target(false).with_ansi(is_coloured).with_timer(TimeAndPid));
            lines.with_ansi(is_coloured).event_format(line).fmt_fields(Fields).boxed()
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

/// Logs panics instead of printing them, unless the program has its own panic hook. The standard
/// hook writes to standard error, and waits for its reader.
fn log_panics() {
    let hook = panic::take_hook();
    let standard = panic::take_hook(); // in force since the line above
    let is_standard = ptr::eq(&*hook, &*standard);
    panic::set_hook(if is_standard { Box::new(log_panic) } else { hook });
}

/// Logs the text of the standard hook as one event.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let text = info.payload().downcast_ref::<&str>().copied();
    let message = text.or_else(|| info.payload().downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("Box<dyn Any>");
    let place = info.location().map(|place| format!(" at {place}")).unwrap_or_default();
    // Captured only if RUST_BACKTRACE is set.
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => {
            tracing::error!("thread {name:?} panicked{place}: {message}\n{backtrace}");
        }
        _ => tracing::error!("thread {name:?} panicked{place}: {message}"),
    }
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

/// Whether to colour: on a terminal, unless its user prefers no colours (no-color.org).
fn is_coloured() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The time, followed by the id of the writing process: `2026-11-22T16:43:07.250316Z [4711]`.
struct TimeAndPid;

impl FormatTime for TimeAndPid {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        SystemTime.format_time(out)?;
        write!(out, " [{}]", process::id())
    }
}

/// Fields of the server's own events whose values the message contains too. They are for JSON; text
/// leaves them out.
const SAID: [&str; 15] = [
    "addresses",
    "age_seconds",
    "again_in_seconds",
    "backend",
    "boots",
    "dropped",
    "finished",
    "left_seconds",
    "limit",
    "limit_seconds",
    "requests",
    "room",
    "rss",
    "silent_seconds",
    "workers",
];

/// The field that is a list, one line per item: an indented line for each in text, an array in
/// JSON.
const LIST: &str = "stack";

/// Formats an event as text, without the fields in [`SAID`], followed by the items of its [`LIST`].
struct Once(Format<Full, TimeAndPid>);

impl<S, N> FormatEvent<S, N> for Once
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // `Fields` is not told the event's target, so the thread-local carries the answer to it.
        let target = event.metadata().target();
        IS_OURS.set(target.split("::").next().is_some_and(|krate| krate.starts_with("remuda")));
        let result = self.0.format_event(cx, out.by_ref(), event);
        let is_ours = IS_OURS.replace(false);
        result?;
        let items = list(event).filter(|_| is_ours).unwrap_or_default();
        items.lines().try_for_each(|item| writeln!(out, "    {item}"))
    }
}

thread_local! {
    /// Whether the event that this thread is formatting is one of the server's own.
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
}

/// Formats the fields of a line of text, without those in [`SAID`].
struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, out: Writer<'writer>, fields: R) -> fmt::Result {
        let mut kept = Kept { inner: DefaultVisitor::new(out, true), is_ours: IS_OURS.get() };
        fields.record(&mut kept);
        kept.inner.finish()
    }
}

struct Kept<'a> {
    inner: DefaultVisitor<'a>,
    is_ours: bool,
}

impl Kept<'_> {
    fn keeps(&self, field: &Field) -> bool {
        !(self.is_ours && (field.name() == LIST || SAID.contains(&field.name())))
    }
}

impl Visit for Kept<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.keeps(field) {
            self.inner.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        if self.keeps(field) {
            self.inner.record_error(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.keeps(field) {
            self.inner.record_debug(field, value);
        }
    }
}

/// The [`LIST`] of an event, if it has one.
fn list(event: &Event<'_>) -> Option<String> {
    struct List(Option<String>);

    impl Visit for List {
        fn record_str(&mut self, field: &Field, value: &str) {
            if field.name() == LIST {
                self.0 = Some(value.to_owned());
            }
        }

        fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
    }

    event.metadata().fields().field(LIST)?;
    let mut list = List(None);
    event.record(&mut list);
    list.0
}

/// Puts the process id in front, as the first member of a JSON object.
struct WithPid(Format<Json>);

impl<S, N> FormatEvent<S, N> for WithPid
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(cx, Writer::new(&mut line), event)?;
        if let Some(items) = list(event)
            && let Ok(text) = serde_json::to_string(&items)
            && let Ok(array) = serde_json::to_string(&items.lines().collect::<Vec<_>>())
        {
            line = line.replacen(&format!("\"{LIST}\":{text}"), &format!("\"{LIST}\":{array}"), 1);
        }
        let members = line.strip_prefix('{').unwrap_or(&line);
        write!(out, "{{\"pid\":{},{members}", process::id())
    }
}

#[cfg(test)]
mod tests;
