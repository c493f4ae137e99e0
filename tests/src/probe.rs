//! The probe: how a connection in each state ends when its server gets TERM, for all backends
//! beside one another.
//!
//! Each row of its table has a server of its own, with keep-alive 5 s and a graceful timeout of 8
//! s, which gets TERM at 0 s. Then all rows share one server, which must make no difference. The
//! observations have to be equal for all backends, and for blocking and async applications. Their
//! times may differ by 250 ms.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use remuda::settings::find;
use rustix::process::Signal;

use self::connection::{Opened, Seen};
use self::rows::{ROWS, Row};
use crate::Harness;
use crate::client::PATIENCE;

pub(crate) mod connection;
mod rows;

/// The tolerated difference between two backends, in seconds.
const TOLERANCE: f64 = 0.25;

/// How many servers run at a time. They mostly wait.
const AT_ONCE: usize = 24;

/// Backends that run one handler at a time, so that requests to one server wait for one another.
const ONE_HANDLER: &[&str] = &["sync"];

/// The kinds of applications.
const APPLICATIONS: [&str; 2] = ["blocking", "async"];

const ARGS: &[&str] = &["--keep-alive", "5", "--graceful-timeout", "8"];

/// The backends that are built in, as `-k` names them.
pub fn backends() -> Vec<String> {
    let allowed = find("worker-class").expect("there is such a setting").kind.to_string();
    // gthread is gunicorn's name for threaded.
    allowed.split(", ").filter(|name| *name != "gthread").map(str::to_owned).collect()
}

/// The observations of all rows, for all backends and both kinds of application.
#[derive(Debug)]
pub struct Report {
    backends: Vec<String>,
    seen: BTreeMap<Cell, Seen>,
    /// The same with all rows on one server, for backends that can.
    together: BTreeMap<Cell, Seen>,
}

/// Row, application, backend, as indices.
type Cell = (usize, usize, usize);

/// A server to observe: with one row, or with all of them.
type Job = (Option<usize>, usize, usize);

impl Report {
    /// Observes `backends`, with `fixture` as the server's program.
    ///
    /// Cells that differ only in their times are observed again, three times in all: a busy machine
    /// is late now and then, a deviating backend always.
    pub fn of(backends: &[String], fixture: &Path) -> Self {
        let columns = (0..APPLICATIONS.len()).flat_map(|app| (0..backends.len()).map(move |n| (app, n)));
        // The servers with all rows first, because they take the longest.
        let mut jobs: Vec<Job> = columns
            .clone()
            .filter(|(_, n)| !ONE_HANDLER.contains(&&*backends[*n]))
            .map(|(app, n)| (None, app, n))
            .chain(columns.flat_map(|(app, n)| (0..ROWS.len()).map(move |row| (Some(row), app, n))))
            .collect();
        let mut report =
            Self { backends: backends.to_vec(), seen: BTreeMap::new(), together: BTreeMap::new() };
        for _ in 0..3 {
            report.look(&jobs, fixture);
            jobs = report.late();
        }
        report
    }

    fn look(&mut self, jobs: &[Job], fixture: &Path) {
        let (next, report) = (AtomicUsize::new(0), Mutex::new(&mut *self));
        let backends = report.lock().expect("it is new").backends.clone();
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(&(row, app, n)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let harness = Harness::new(&backends[n], APPLICATIONS[app], fixture);
                        let rows = row.map_or(0..ROWS.len(), |row| row..row + 1);
                        let seen = look(&harness, &ROWS[rows.clone()]);
                        let mut report = report.lock().expect("no thread panics with the lock");
                        let into = if row.is_some() { &mut report.seen } else { &mut report.together };
                        into.extend(rows.zip(seen).map(|(row, seen)| ((row, app, n), seen)));
                    }
                });
            }
        });
    }

    /// The cells that differ only in their times, and the cells that they are compared with.
    fn late(&self) -> Vec<Job> {
        let mut late = BTreeSet::new();
        for (is_alone, (&(row, app, n), seen)) in self.all() {
            let expected = self.reference(row);
            if seen.words() == expected.words() && !seen.is_like(expected, TOLERANCE) {
                late.insert((is_alone.then_some(row), app, n));
                late.insert((Some(row), 0, 0));
            }
        }
        late.into_iter().collect()
    }

    /// All observations, and whether each was on a server of its own.
    fn all(&self) -> impl Iterator<Item = (bool, (&Cell, &Seen))> {
        let alone = self.seen.iter().map(|cell| (true, cell));
        alone.chain(self.together.iter().map(|cell| (false, cell)))
    }

    /// The differences, as sentences.
    pub fn differences(&self) -> Vec<String> {
        let mut differences = Vec::new();
        for (is_alone, (&(row, app, n), seen)) in self.all() {
            let expected = self.reference(row);
            let how = if is_alone { "" } else { ", beside the others" };
            if !seen.is_like(expected, TOLERANCE) {
                differences.push(format!(
                    "{}, {} {}{how}: {seen}; expected: {expected}",
                    ROWS[row].name, self.backends[n], APPLICATIONS[app]
                ));
            }
        }
        differences
    }

    /// The differences from a table printed earlier, as sentences. Its backends may be others.
    pub fn differences_from(&self, table: &str) -> Vec<String> {
        let lines: Vec<Vec<&str>> =
            table.lines().skip(2).map(|line| line.split('|').map(str::trim).collect()).collect();
        let mut differences = Vec::new();
        for (row, Row { name, .. }) in ROWS.iter().enumerate() {
            for application in APPLICATIONS {
                let expected = self.reference(row);
                let line = lines.iter().find(|line| line.get(1..3) == Some(&[*name, application]));
                let is_so = line.is_some_and(|line| {
                    line[3..7] == expected.words()
                        && line[7..].iter().all(|times| expected.is_at(times, TOLERANCE))
                });
                if !is_so {
                    differences.push(format!("{name}, {application}: {expected}; printed: {line:?}"));
                }
            }
        }
        differences
    }

    /// The backends that were not observed with all rows on one server, and why. None: there are no
    /// such backends.
    pub fn skipped(&self) -> Option<String> {
        let skipped: Vec<_> =
            self.backends.iter().map(String::as_str).filter(|name| ONE_HANDLER.contains(name)).collect();
        (!skipped.is_empty()).then(|| {
            format!("Not shown on one server: {}, which runs one handler at a time.", skipped.join(", "))
        })
    }

    /// The observation that all others are compared with.
    fn reference(&self, row: usize) -> &Seen {
        &self.seen[&(row, 0, 0)]
    }
}

impl fmt::Display for Report {
    /// The table, as Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "| connection at TERM | application | answers | close announced | ends by | exit status |"
        )?;
        self.backends.iter().try_for_each(|name| write!(f, " {name} |"))?;
        writeln!(f, "\n|---|---|---|---|---|---|{}", "---|".repeat(self.backends.len()))?;
        for (row, Row { name, .. }) in ROWS.iter().enumerate() {
            for (app, application) in APPLICATIONS.iter().enumerate() {
                let expected = self.reference(row);
                write!(f, "| {name} | {application} | {} |", expected.words().join(" | "))?;
                for n in 0..self.backends.len() {
                    let seen = &self.seen[&(row, app, n)];
                    match seen.is_like(expected, TOLERANCE) {
                        true => write!(f, " {} |", seen.times())?,
                        false => write!(f, " **{seen}** |")?,
                    }
                }
                f.write_char('\n')?;
            }
        }
        Ok(())
    }
}

/// Observes `rows` on one server.
fn look(harness: &Harness, rows: &[Row]) -> Vec<Seen> {
    // Each row may need a handler thread, unless the backend has one handler anyway.
    let threads = rows.len().to_string();
    let threads: &[&str] = if rows.len() > 1 { &["--threads", &threads] } else { &[] };
    let mut server = harness.serve(&[ARGS, threads].concat());
    let opened: Vec<Opened> = rows.iter().map(|row| (row.open)(&server)).collect();
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    let mut seen = watch(opened, start);
    let (status, gone) = (server.exit(PATIENCE), start.elapsed().as_secs_f64());
    for seen in &mut seen {
        seen.status = Some(status);
        // With several rows this is when the last of them ended.
        seen.gone = (rows.len() == 1).then_some(gone);
    }
    seen
}

/// Follows all connections to their ends.
pub(crate) fn watch(opened: Vec<Opened>, start: Instant) -> Vec<Seen> {
    thread::scope(|scope| {
        let watching: Vec<_> =
            opened.into_iter().map(|opened| scope.spawn(move || opened.watch(start))).collect();
        watching.into_iter().map(|seen| seen.join().expect("the watching thread does not panic")).collect()
    })
}

#[cfg(test)]
mod tests;
