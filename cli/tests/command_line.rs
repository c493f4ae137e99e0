//! Runs the real program without starting a server, and checks its output and exit status.

use std::fs;
use std::process::{Command, Output};

use remuda::settings::{Kind, table};
use tempfile::TempDir;

/// A directory to start the program in, with an otherwise empty environment.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn with_file(name: &str, text: &str) -> Self {
        let place = Self::new();
        fs::write(place.0.path().join(name), text).unwrap();
        place
    }

    fn remuda(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remuda"));
        command.current_dir(self.0.path()).args(arguments).env_clear().envs(variables.iter().copied());
        Run::from(command.output().unwrap())
    }
}

struct Run {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Run {
    /// Asserts that the program exited with status 2, with empty standard output and exactly these
    /// lines on standard error.
    #[track_caller]
    fn is_refused_with(&self, lines: &[&str]) {
        assert_eq!(self.stderr.lines().collect::<Vec<_>>(), lines);
        assert_eq!((self.status, self.stdout.as_str()), (Some(2), ""));
    }
}

#[test]
fn a_bad_flag_is_refused_with_a_suggestion() {
    let run = Place::new().remuda(&["--wrokers", "3"], &[]);
    assert_eq!(run.status, Some(2));
    assert!(run.stderr.starts_with("error: unexpected argument '--wrokers' found\n"), "{}", run.stderr);
    assert!(run.stderr.contains("'--workers'"), "{}", run.stderr);
}

#[test]
fn a_flag_of_another_server_is_refused_with_its_counterpart() {
    let place = Place::new();
    place.remuda(&["--certfile", "x.pem"], &[]).is_refused_with(&[
        "remuda: unknown flag \"--certfile\"; known from gunicorn; here: TLS is terminated by a proxy in front; see the book's page \
         Behind proxies",
    ]);
    for (flag, words) in [
        ("--daemon", "the server stays in the foreground"),
        ("-D", "the server stays in the foreground"),
        ("--reload", "`remuda reload`"),
        ("--timeout-keep-alive=9", "here: --keep-alive"),
        ("--pidfile", "here: --pid"),
    ] {
        let run = place.remuda(&[flag], &[]);
        assert!(run.status == Some(2) && run.stderr.contains(words), "{flag}: {}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    }
}

#[test]
fn a_misspelt_command_is_refused_with_a_suggestion() {
    let place = Place::new();
    place.remuda(&["stauts"], &[]).is_refused_with(&[concat!(
        r#"remuda: APP is "stauts"; allowed: none, which serves the built-in demo application"#,
        "; did you mean the command status?",
    )]);
    place
        .remuda(&["stauts", "--json"], &[])
        .is_refused_with(&[r#"remuda: unknown command "stauts"; did you mean status?"#]);
    for (arguments, words) in [
        (&["scale", "0"][..], "from 1 to 1024"),
        (&["scale", "-1025"], "from 1 to 1024"),
        (&["log-level", "foo"], "error, warn, info, debug, trace"),
        (&["log-level", "degub"], "'debug'"),
    ] {
        let run = place.remuda(arguments, &[]);
        assert!(run.status == Some(2) && run.stderr.contains(words), "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn a_bad_value_of_a_flag_is_refused() {
    Place::new().remuda(&["-w", "0"], &[]).is_refused_with(&[
        r#"remuda: workers is "0" (flag --workers); allowed: a whole number from 1 to 1024"#,
    ]);
}

#[cfg(not(feature = "async-std"))]
#[test]
fn a_missing_backend_is_refused_with_its_feature() {
    Place::new().remuda(&["-k", "async-std"], &[]).is_refused_with(&[concat!(
        r#"remuda: worker-class is "async-std" (flag --worker-class), which is not built in "#,
        "(it needs the feature async-std of remuda); allowed: sync, threaded, gthread, mio, tokio, smol",
    )]);
}

#[test]
fn an_unknown_key_in_the_file_is_refused_with_its_line() {
    let place = Place::with_file("remuda.toml", "workers = 2\nkeepalive = 5\n");
    place.remuda(&[], &[]).is_refused_with(&[
        r#"remuda: unknown setting "keepalive" (remuda.toml line 2); known from gunicorn; here: keep-alive"#,
    ]);
}

#[test]
fn a_bad_value_in_the_environment_is_refused() {
    Place::new().remuda(&[], &[("REMUDA_LOG_LEVEL", "loud"), ("WEB_CONCURRENCY", "two")]).is_refused_with(&[
        r#"remuda: workers is "two" (variable WEB_CONCURRENCY); allowed: a whole number from 1 to 1024"#,
        r#"remuda: log-level is "loud" (variable REMUDA_LOG_LEVEL); allowed: error, warn, info, debug, trace"#,
    ]);
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let place = Place::new();
    place
        .remuda(&["-c", "."], &[])
        .is_refused_with(&[r#"remuda: cannot read the settings file ".": is a directory"#]);
    place.remuda(&["-c", "none.toml"], &[]).is_refused_with(&[
        r#"remuda: cannot read the settings file "none.toml": no such file or directory"#,
    ]);
    let default = place.0.path().join("remuda.toml");
    fs::create_dir(&default).unwrap();
    place
        .remuda(&[], &[])
        .is_refused_with(&[r#"remuda: cannot read the settings file "remuda.toml": is a directory"#]);
    fs::remove_dir(&default).unwrap();
    std::os::unix::fs::symlink("nowhere", &default).unwrap();
    place.remuda(&[], &[]).is_refused_with(&[
        r#"remuda: cannot read the settings file "remuda.toml": no such file or directory"#,
    ]);
}

#[test]
fn an_application_that_cannot_be_served_is_refused() {
    Place::new().remuda(&["./site"], &[]).is_refused_with(&[
        r#"remuda: APP is "./site"; allowed: none, which serves the built-in demo application"#,
    ]);
}

#[test]
fn check_config_reports_by_its_status() {
    let place = Place::with_file("good.toml", "workers = 2\n");
    let run = place.remuda(&["--check-config", "-c", "good.toml"], &[]);
    assert_eq!((run.status, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""));
    place.remuda(&["--check-config", "-c", "good.toml", "--threads=0"], &[]).is_refused_with(&[
        r#"remuda: threads is "0" (flag --threads); allowed: a whole number from 1 to 1024"#,
    ]);
}

#[test]
fn check_config_uses_the_servers_directory_and_creates_no_file() {
    let place = Place::new();
    let flags = ["--check-config", "--pid", "app.pid", "--umask", "027", "-n", "shop", "-e", "A=1"];
    let run = place.remuda(&flags, &[]);
    assert_eq!((run.status, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""));
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 0);

    let flags =
        ["--chdir=run", "--pid=run/app.pid", "--group=no one", "--user=no one", "--umask=9", "-e", "A"];
    place.remuda(&flags, &[]).is_refused_with(&[
        r#"remuda: chdir is "run" (flag --chdir), "run": no such file or directory; allowed: a directory"#,
        r#"remuda: pid is "run/app.pid" (flag --pid), "run": no such file or directory; allowed: a file in a directory that exists"#,
        r#"remuda: group is "no one" (flag --group), and no such group exists; allowed: the name or number of a group"#,
        r#"remuda: user is "no one" (flag --user), and no such user exists; allowed: the name or number of a user"#,
        r#"remuda: umask is "9" (flag --umask); allowed: three octal digits or fewer"#,
        r#"remuda: env is "A" (flag --env), "A" is not NAME=VALUE; allowed: NAME=VALUE"#,
    ]);
}

#[test]
fn print_config_shows_each_setting_with_its_source() {
    let place = Place::with_file("remuda.toml", "# ours\nthreads = 8\n");
    let variables = [("PORT", "90"), ("REMUDA_LINGER", "500ms"), ("REMUDA_ARGS", "--backlog 16")];
    let run = place.remuda(&["--print-config", "-w4"], &variables);
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
    let mut lines: Vec<_> = run.stdout.lines().filter(|line| line.contains(" = ")).collect();
    assert_eq!(lines.len(), table().count(), "{}", run.stdout);
    for (setting, line) in table().zip(&lines) {
        assert!(line.starts_with(&format!("{} = ", setting.name)), "{line}");
    }
    lines.retain(|line| !line.ends_with("  # default"));
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        lines.into_iter().map(words).collect::<Vec<_>>(),
        [
            "workers = 4 # flag --workers",
            "threads = 8 # remuda.toml line 2",
            r#"bind = ["0.0.0.0:90"] # variable PORT"#,
            "backlog = 16 # REMUDA_ARGS --backlog",
            "linger = 0.5 # variable REMUDA_LINGER",
        ]
    );
}

#[test]
fn help_lists_every_setting_under_its_category() {
    for flag in ["-h", "--help"] {
        let run = Place::new().remuda(&[flag], &[]);
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
        // In the order of the table: a heading, then its flags.
        let mut rest = run.stdout.as_str();
        let mut category = None;
        for setting in table() {
            if category.replace(setting.category) != Some(setting.category) {
                rest = after(rest, &format!("\n{}:\n", setting.category));
            }
            let (name, value) = (setting.name, setting.kind.placeholder());
            rest = after(
                rest,
                &match setting.kind {
                    Kind::Switch { .. } => format!("--{name}[=<{value}>]"),
                    _ => format!("--{name} <{value}>"),
                },
            );
        }
        for flag in ["--config <FILE>", "--check-config", "--print-config"] {
            rest = after(rest, flag);
        }
        let shows_variables = table().all(|setting| run.stdout.contains(&setting.variable()));
        assert_eq!(shows_variables, flag == "--help");
    }
}

#[test]
fn a_command_without_a_server_says_so() {
    let place = Place::new();
    let run = place.remuda(&["status"], &[]);
    assert_eq!((run.status, run.stdout.as_str()), (Some(2), ""));
    assert!(
        run.stderr.contains("--control-socket PATH, by the variable REMUDA_CONTROL_SOCKET, or as"),
        "{}",
        run.stderr
    );
    let nobody: [(&[&str], _); 3] = [
        (&["stop", "--control-socket", "none.sock"], ""),
        (&["--control-socket=none.sock", "top", "--once"], ""),
        (&["recycle", "7"], "none.sock"),
    ];
    for (arguments, variable) in nobody {
        let run = place.remuda(arguments, &[("REMUDA_CONTROL_SOCKET", variable)]);
        assert_eq!((run.status, run.stdout.as_str()), (Some(3), ""), "{arguments:?}");
        assert!(run.stderr.contains("cannot connect to the control socket none.sock: "), "{}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1);
    }
}

#[test]
fn a_malformed_command_is_refused() {
    for arguments in
        [&["scale"][..], &["recycle", "all"], &["recycle", "0"], &["stop", "--now"], &["log-level"]]
    {
        let run = Place::new().remuda(arguments, &[("REMUDA_CONTROL_SOCKET", "none.sock")]);
        assert_eq!((run.status, run.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
    }
    Place::new()
        .remuda(&[], &[("REMUDA_ARGS", "status")])
        .is_refused_with(&[r#"remuda: REMUDA_ARGS is "status": status is a command, not a setting"#]);
}

#[test]
fn doctor_reports_problems_of_the_settings() {
    let place = Place::new();
    let run = place.remuda(&["--lameduck", "9", "doctor"], &[]);
    assert_eq!((run.status, run.stderr.as_str()), (Some(1), ""));
    for words in
        ["- there is no control socket", "- lameduck is set, but without admin-bind", "  set admin-bind"]
    {
        assert!(run.stdout.contains(words), "{}", run.stdout);
    }
    place.remuda(&["-w", "0", "doctor"], &[]).is_refused_with(&[
        r#"remuda: workers is "0" (flag --workers); allowed: a whole number from 1 to 1024"#,
    ]);
}

#[test]
fn version_is_the_packages() {
    let run = Place::new().remuda(&["--version"], &[]);
    assert_eq!(run.stdout, concat!("remuda ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(run.status, Some(0));
}

/// The text after `wanted`, which must be present.
#[track_caller]
fn after<'a>(text: &'a str, wanted: &str) -> &'a str {
    let (_, rest) = text.split_once(wanted).unwrap_or_else(|| panic!("no {wanted:?} in {text}"));
    rest
}
