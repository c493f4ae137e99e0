//! The symbolizer: resolves stack traces of a lost worker's threads to function names, and logs
//! them.
//!
//! The names are in the debug information of the executable, which takes long to read. A process of
//! its own reads it ([`Stacks::write`]), so that the arbiter neither waits nor grows.

use std::ffi::{OsStr, c_void};
use std::fmt;
use std::iter;
use std::path::{Path, PathBuf};
use std::ptr;

use remuda_core::app::Busy;
use remuda_core::order::Stack;
use rustix::process::Pid;
use tracing::error;

/// Stack traces of a worker, with the requests that it was serving.
#[derive(Debug)]
pub(crate) struct Stacks {
    pub(crate) slot: u16,
    pub(crate) pid: Pid,
    pub(crate) stacks: Vec<Stack>,
    pub(crate) busy: Vec<Busy>,
}

impl Stacks {
    /// Logs an event for each thread. May take a second, and much memory.
    pub(crate) fn write(self) {
        let Self { slot, pid, stacks, busy } = self;
        let own = Own::here();
        for Stack { on_loop, since, frames } in stacks {
            let request = busy.iter().find(|busy| busy.running.is_some() && busy.running == since);
            let request = request.and_then(|busy| busy.request.as_deref());
            let frames = interrupted(frames.into_iter().flat_map(frames_at).collect());
            let frames: Vec<_> = frames.into_iter().map(|frame| own.with_module(frame)).collect();
            let inside = frames.first().map(Frame::to_string).unwrap_or_default();
            let stack: Vec<_> = told(&frames, &own).map(Frame::to_string).collect();
            let stack = stack.join("\n"); // which the log writes as lines, or in JSON as an array
            let place = if on_loop { "event loop" } else { "handler thread" };
            error!(
                slot,
                pid = pid.as_raw_nonzero().get(),
                request,
                stack,
                "worker stack trace, {place}, in {inside}"
            );
        }
    }
}

/// The largest number of application frames in a trace.
const FRAMES: usize = 16;

/// The largest number of frames for a thread outside the application: it includes the server's
/// functions below those that wait.
const FRAMES_OF_SERVER: usize = 40;

/// A function of a stack trace, possibly inlined into another.
#[derive(Clone, Debug)]
struct Frame {
    /// The name, with its module path if known.
    name: String,
    /// The source file.
    file: Option<PathBuf>,
    line: Option<u32>,
}

/// Formats a frame as `shop::cart::total (src/cart.rs:33)`.
impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let source = self.file.as_deref().and_then(Source::of);
        let path =
            source.map(|source| source.path).or_else(|| Some(self.file.as_deref()?.file_name()?.into()));
        match (path, self.line) {
            (Some(path), Some(line)) => write!(f, " ({}:{line})", path.display()),
            _ => Ok(()),
        }
    }
}

/// A Rust source file in the layout of packages: `PACKAGE/src/MODULE.rs`.
#[derive(Debug)]
struct Source<'a> {
    package: &'a str,
    /// The path from `src` on.
    path: PathBuf,
}

impl<'a> Source<'a> {
    fn of(file: &'a Path) -> Option<Self> {
        let parts: Vec<_> = file.iter().map(OsStr::to_str).collect::<Option<_>>()?;
        let src = parts.iter().rposition(|part| *part == "src").filter(|src| *src > 0)?;
        let is_rust = file.extension().is_some_and(|end| end == "rs");
        is_rust.then(|| Self { package: parts[src - 1], path: parts[src..].iter().collect() })
    }

    /// The crate's name: that of the package, without the version that a registry appends.
    fn krate(&self) -> String {
        let name =
            self.package.rsplit_once('-').filter(|(_, end)| end.starts_with(|c: char| c.is_ascii_digit()));
        name.map_or(self.package, |(name, _)| name).replace('-', "_")
    }

    /// The module path in `krate`, as far as the file name determines it.
    fn module(&self, krate: String) -> String {
        let module = self.path.with_extension("");
        let parts = module.iter().skip(1).filter_map(OsStr::to_str);
        let parts = parts.filter(|part| !["lib", "main", "mod"].contains(part));
        iter::once(krate).chain(parts.map(str::to_owned)).collect::<Vec<_>>().join("::")
    }
}

/// Shortens `call<shop::App>` to `call`. A name that begins with a bracket stays.
fn without_generics(name: &str) -> &str {
    match name.find('<') {
        None | Some(0) => name,
        Some(at) => &name[..at],
    }
}

/// The crates of the standard library.
const STD: [&str; 3] = ["alloc", "core", "std"];

/// Crates that run applications, and the crates below them and below this server. A waiting loop is
/// in these.
const RUNTIMES: [&str; 69] = [
    "addr2line",
    "async_channel",
    "async_executor",
    "async_global_executor",
    "async_io",
    "async_lock",
    "async_process",
    "async_signal",
    "async_std",
    "async_task",
    "async_trait",
    "atomic_waker",
    "axum",
    "axum_core",
    "backtrace",
    "blocking",
    "bytes",
    "concurrent_queue",
    "crossbeam_utils",
    "event_listener",
    "event_listener_strategy",
    "fastrand",
    "futures_core",
    "futures_executor",
    "futures_io",
    "futures_lite",
    "futures_util",
    "gimli",
    "http",
    "http_body",
    "http_body_util",
    "httparse",
    "httpdate",
    "hyper",
    "hyper_util",
    "ipnet",
    "lazy_static",
    "libc",
    "log",
    "memchr",
    "mio",
    "nix",
    "object",
    "once_cell",
    "parking",
    "piper",
    "polling",
    "rustix",
    "send_wrapper",
    "serde",
    "serde_core",
    "serde_json",
    "sharded_slab",
    "signal_hook_registry",
    "slab",
    "smallvec",
    "smol",
    "socket2",
    "thiserror",
    "thread_local",
    "threadpool",
    "tokio",
    "tokio_util",
    "tower",
    "tower_http",
    "tower_service",
    "tracing",
    "tracing_core",
    "tracing_subscriber",
];

/// The sources of this server, to distinguish them from an application with folders of the same
/// names.
#[derive(Debug)]
struct Own {
    /// None if they are packages of a registry, or without debug information.
    workspace: Option<PathBuf>,
}

impl Own {
    fn here() -> Self {
        let here = Self::here as *const () as u64;
        let frames = frames_at(here + 1);
        Self { workspace: frames.iter().find_map(|frame| workspace(frame.file.as_deref()?)) }
    }

    /// Prefixes a bare name with the module of its file.
    fn with_module(&self, frame: Frame) -> Frame {
        let name = without_generics(&frame.name);
        let Some((file, source)) = frame.file.as_deref().and_then(|file| Some((file, Source::of(file)?)))
        else {
            return frame;
        };
        if name.contains("::") {
            return frame;
        }
        let name = format!("{}::{name}", source.module(self.krate(file).unwrap_or_else(|| source.krate())));
        Frame { name, ..frame }
    }

    /// The crate of a file in the workspace, whose folders have other names than their packages.
    fn krate(&self, file: &Path) -> Option<String> {
        let path = file.strip_prefix(self.workspace.as_ref()?).ok()?;
        let folders: Vec<_> =
            path.iter().map_while(|part| part.to_str().filter(|part| *part != "src")).collect();
        match folders[..] {
            ["cli"] => Some("remuda".to_owned()),
            ["arbiter" | "core"] | ["workers", _] => {
                Some(format!("remuda_{}", folders.last()?.replace('-', "_")))
            }
            _ => None,
        }
    }

    /// Whether a frame belongs to the application: neither to the server nor to crates that run it.
    /// The built-in demo counts as an application.
    fn is_application(&self, frame: &Frame) -> bool {
        let Some(file) = &frame.file else { return self.is_application_by_name(&frame.name) };
        let Some(source) = Source::of(file) else { return false };
        let krate = source.krate();
        if is_std(file) || RUNTIMES.contains(&&*krate) {
            return false;
        }
        match self.workspace.as_ref().and_then(|workspace| file.strip_prefix(workspace).ok()) {
            Some(path) if path.starts_with("cli/src") => is_demo(&source.path),
            Some(path) => !["arbiter", "core", "workers"].iter().any(|folder| path.starts_with(folder)),
            None if krate == "remuda" => is_demo(&source.path),
            None => !SERVER.contains(&&*krate),
        }
    }

    /// The same without debug information, by the beginning of the name: `shop::cart::total`,
    /// `<shop::Cart as core::fmt::Display>::fmt`.
    fn is_application_by_name(&self, name: &str) -> bool {
        let Some((krate, rest)) = name.trim_start_matches(['<', '&']).split_once("::") else { return false };
        let is_server = SERVER.contains(&krate) || krate == "remuda" && !rest.starts_with("demo");
        !is_server
            && !STD.contains(&krate)
            && !RUNTIMES.contains(&krate)
            && krate.chars().all(|c| c.is_alphanumeric() || c == '_')
    }
}

/// The crates of this server that contain no application.
const SERVER: [&str; 8] = [
    "remuda_arbiter",
    "remuda_async_std",
    "remuda_core",
    "remuda_mio",
    "remuda_smol",
    "remuda_sync",
    "remuda_threaded",
    "remuda_tokio",
];

/// The root of the workspace that contains `file`, which is this source file.
fn workspace(file: &Path) -> Option<PathBuf> {
    let mut above = file.ancestors();
    let is_ours = file.ends_with("arbiter/src/symbolizer.rs");
    above.nth(3).filter(|_| is_ours).map(Path::to_owned)
}

/// Whether a file belongs to the standard library: `/rustc/HASH/library/core/src/…`.
fn is_std(file: &Path) -> bool {
    let parts: Vec<_> = file.iter().collect();
    parts.windows(3).any(|at| at[0] == "library" && STD.iter().any(|krate| at[1] == *krate) && at[2] == "src")
}

fn is_demo(path: &Path) -> bool {
    path.starts_with("src/demo") || path == Path::new("src/demo.rs")
}

/// The handler of ABRT. Its caller is the frame that the kernel puts on the stack, and that frame's
/// caller is the interrupted function.
const HANDLER: &str = "on_abort";

/// The functions in which a thread and a worker begin.
const BEGIN: [&str; 2] = ["__rust_begin_short_backtrace", "become_worker"];

/// Removes the frames of the signal handler, and those in which the thread began.
fn interrupted(mut frames: Vec<Frame>) -> Vec<Frame> {
    let at = |what: &str| frames.iter().position(|frame| frame.name.contains(what));
    let end = BEGIN.into_iter().filter_map(at).min().unwrap_or(frames.len());
    let begin = at(HANDLER).map_or(0, |handler| (handler + 2).min(end));
    frames.truncate(end);
    frames.split_off(begin)
}

/// Selects the frames of the application, innermost first. For a thread outside the application,
/// all frames except those of the standard library.
fn told<'a>(frames: &'a [Frame], own: &Own) -> impl Iterator<Item = &'a Frame> {
    let application: Vec<_> = frames.iter().filter(|frame| own.is_application(frame)).collect();
    let all =
        || -> Vec<_> { frames.iter().filter(|frame| !frame.file.as_deref().is_some_and(is_std)).collect() };
    let (told, most) = if application.is_empty() { (all(), FRAMES_OF_SERVER) } else { (application, FRAMES) };
    told.into_iter().take(most)
}

/// Resolves an address: a function, preceded by the functions inlined there. If nothing is known,
/// the address itself.
fn frames_at(address: u64) -> Vec<Frame> {
    let mut frames = Vec::new();
    let code: *mut c_void = ptr::without_provenance_mut(address as usize);
    backtrace::resolve(code, |symbol| {
        let Some(name) = symbol.name() else { return };
        let (file, line) = (symbol.filename().map(Path::to_owned), symbol.lineno());
        frames.push(Frame { name: format!("{name:#}"), file, line });
    });
    if frames.is_empty() {
        frames.push(Frame { name: format!("{address:#x}"), file: None, line: None });
    }
    frames
}

#[cfg(test)]
mod tests;
