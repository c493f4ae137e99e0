use std::fs;

use remuda_arbiter::Bind;
use tempfile::TempDir;

use super::*;
use crate::client::command_line;
use crate::settings::{Category, Kind, LogFormat, find, printed};

/// What a program is started with.
#[derive(Default)]
struct Start<'a> {
    flags: &'a [&'a str],
    variables: &'a [(&'a str, &'a str)],
    files: &'a [(&'a str, &'a str)],
    activated: bool,
}

impl Start<'_> {
    fn invoke(&self) -> Invocation {
        let directory = TempDir::new().unwrap();
        for (name, text) in self.files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let inputs = Inputs {
            arguments: ["remuda"].iter().chain(self.flags).map(OsString::from).collect(),
            variables: self.variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            directory: directory.path().to_owned(),
            backends: Vec::new(),
            custom_policies: BTreeMap::new(),
            activated: self.activated,
            names: Names::default(),
        };
        read(&command_line("remuda".into(), "1".into(), true, &[]), inputs).unwrap()
    }

    /// The value of a setting as it is printed, and its source.
    fn origin(&self, name: &str) -> (String, String) {
        let read = self.invoke();
        assert_eq!(sentences(&read.problems), [""; 0]);
        let origin = read.origins.into_iter().find(|origin| origin.setting.name == name).unwrap();
        (origin.value, origin.whence)
    }

    fn problems(&self) -> Vec<String> {
        sentences(&self.invoke().problems)
    }
}

fn sentences(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

fn pair(value: &str, whence: &str) -> (String, String) {
    (value.to_owned(), whence.to_owned())
}

const FILE: (&str, &str) = ("remuda.toml", "# ours\nworkers = 2\nbind = ['127.0.0.1:1', 'unix:x']\n");

#[test]
fn inherited_listeners_are_the_default() {
    let passed = Start { activated: true, ..Start::default() };
    assert_eq!(passed.origin("bind"), pair(r#"["systemd"]"#, "variable LISTEN_FDS"));
    let told = Start { flags: &["-b", "127.0.0.1:1"], ..passed };
    assert_eq!(told.origin("bind"), pair(r#"["127.0.0.1:1"]"#, "flag --bind"));
}

#[test]
fn a_setting_written_nowhere_has_its_default() {
    assert_eq!(Start::default().origin("workers"), pair("1", "default"));
    assert_eq!(Start::default().origin("bind"), pair(r#"["127.0.0.1:8000"]"#, "default"));
}

#[test]
fn each_layer_replaces_the_ones_below() {
    let files = &[FILE];
    let mut start = Start { files, ..Start::default() };
    assert_eq!(start.origin("workers"), pair("2", "remuda.toml line 2"));
    start.variables = &[("WEB_CONCURRENCY", "3")];
    assert_eq!(start.origin("workers"), pair("3", "variable WEB_CONCURRENCY"));
    start.variables = &[("WEB_CONCURRENCY", "3"), ("REMUDA_WORKERS", "4")];
    assert_eq!(start.origin("workers"), pair("4", "variable REMUDA_WORKERS"));
    start.variables = &[("REMUDA_ARGS", "-w 5"), ("WEB_CONCURRENCY", "3"), ("REMUDA_WORKERS", "4")];
    assert_eq!(start.origin("workers"), pair("5", "REMUDA_ARGS --workers"));
    start.flags = &["--workers=6"];
    assert_eq!(start.origin("workers"), pair("6", "flag --workers"));
}

#[test]
fn a_switch_needs_no_value_as_a_flag() {
    let mut start = Start { files: &[("remuda.toml", "reuse-port = true\n")], ..Start::default() };
    assert_eq!(start.origin("reuse-port"), pair("true", "remuda.toml line 1"));
    start.variables = &[("REMUDA_REUSE_PORT", "false")];
    assert_eq!(start.origin("reuse-port"), pair("false", "variable REMUDA_REUSE_PORT"));
    start.flags = &["--reuse-port", "app"];
    assert_eq!(start.origin("reuse-port"), pair("true", "flag --reuse-port"));
    assert_eq!(start.invoke().app.as_deref(), Some("app"), "what follows is no value");
    start.flags = &["--reuse-port=false"];
    assert_eq!(start.origin("reuse-port"), pair("false", "flag --reuse-port"));
    start.flags = &["--reuse-port=on"];
    assert_eq!(start.problems(), [r#"reuse-port is "on" (flag --reuse-port); allowed: true, false"#]);
}

#[test]
fn a_list_replaces_a_list() {
    let mut start = Start { files: &[FILE], ..Start::default() };
    assert_eq!(start.origin("bind").0, r#"["127.0.0.1:1","unix:x"]"#);
    start.variables = &[("PORT", "90")];
    assert_eq!(start.origin("bind"), pair(r#"["0.0.0.0:90"]"#, "variable PORT"));
    start.variables = &[("PORT", "90"), ("REMUDA_BIND", "127.0.0.1:2, [::1]:2")];
    assert_eq!(start.origin("bind"), pair(r#"["127.0.0.1:2","[::1]:2"]"#, "variable REMUDA_BIND"));
    start.flags = &["-b", "fd://3", "--bind", "unix:a,b"];
    assert_eq!(start.origin("bind"), pair(r#"["fd://3","unix:a,b"]"#, "flag --bind"));
    assert_eq!(start.invoke().settings.arbiter.binds, [Bind::Fd(3), Bind::Unix("a,b".into())]);
}

#[test]
fn the_last_of_a_repeated_flag_counts() {
    assert_eq!(Start { flags: &["-w", "2", "-w3"], ..Start::default() }.origin("workers").0, "3");
}

#[test]
fn a_named_file_is_read_instead_of_the_default_one() {
    let files = &[FILE, ("other.toml", "threads = 8")];
    let named = Start { flags: &["-c", "other.toml"], files, ..Start::default() };
    assert_eq!(named.origin("threads"), pair("8", "other.toml line 1"));
    assert_eq!(named.origin("workers"), pair("1", "default"));
    let args = Start { variables: &[("REMUDA_ARGS", "--config other.toml")], files, ..Start::default() };
    assert_eq!(args.origin("threads").0, "8");
}

#[test]
fn file_values_may_be_strings_or_numbers() {
    let text = "workers = '2'\nthreads = 1_6\nkeep-alive = 0.5\nlinger = '1500ms'\nlimit-request-body = '1M'\n\
                bind = 'unix:x'\nlog-format = 'json'";
    let read = Start { files: &[("remuda.toml", text)], ..Start::default() }.invoke();
    assert_eq!(sentences(&read.problems), [""; 0]);
    assert_eq!(read.settings.arbiter.workers, 2);
    assert_eq!(read.settings.arbiter.worker.threads, 16);
    assert_eq!(read.settings.arbiter.worker.limits.keep_alive.as_millis(), 500);
    assert_eq!(read.settings.arbiter.worker.limits.linger.as_millis(), 1500);
    assert_eq!(read.settings.arbiter.worker.limits.body, 1 << 20);
    assert_eq!(read.settings.arbiter.binds, [Bind::Unix("x".into())]);
    assert_eq!(read.settings.log_format, LogFormat::Json);
}

#[test]
fn a_bad_value_names_key_value_source_and_what_is_allowed() {
    let allowed = "allowed: a whole number from 1 to 1024";
    let file = Start { files: &[("remuda.toml", "\n\nworkers = 'many'")], ..Start::default() };
    assert_eq!(file.problems(), [format!(r#"workers is "many" (remuda.toml line 3); {allowed}"#)]);
    let list = Start { files: &[("remuda.toml", "workers = [1, 2]")], ..Start::default() };
    assert_eq!(
        list.problems(),
        [format!(r#"workers is ["1","2"] (remuda.toml line 1), but it takes one value; {allowed}"#)]
    );
    let truth = Start { files: &[("remuda.toml", "workers = true")], ..Start::default() };
    assert_eq!(truth.problems(), [format!(r#"workers is "true" (remuda.toml line 1); {allowed}"#)]);
    let flag = Start { flags: &["-w", "-1"], ..Start::default() };
    assert_eq!(flag.problems(), [format!(r#"workers is "-1" (flag --workers); {allowed}"#)]);
    let empty = Start { variables: &[("REMUDA_WORKERS", "")], ..Start::default() };
    assert_eq!(empty.problems(), [format!(r#"workers is "" (variable REMUDA_WORKERS); {allowed}"#)]);
    let port = Start { variables: &[("PORT", "http")], ..Start::default() };
    assert_eq!(
        port.problems(),
        [
            r#"bind is "0.0.0.0:http" (variable PORT), port "http" is not from 0 to 65535; allowed: HOST:PORT, [V6]:PORT, [V6%INTERFACE]:PORT, unix:PATH, unix:@NAME, fd://N, fd://NAME, systemd"#
        ]
    );
}

#[test]
fn an_unknown_key_is_an_error_with_a_suggestion() {
    let text = "wrokers = 2\n'x y' = 1\nworker_class = 'mio'\n";
    assert_eq!(
        Start { files: &[("remuda.toml", text)], ..Start::default() }.problems(),
        [
            r#"unknown setting "wrokers" (remuda.toml line 1); did you mean workers?"#,
            r#"unknown setting "x y" (remuda.toml line 2); --help lists all settings"#,
            r#"unknown setting "worker_class" (remuda.toml line 3); did you mean worker-class?"#,
        ]
    );
}

#[test]
fn an_unknown_remuda_variable_is_an_error_and_others_are_ignored() {
    let variables = &[
        ("REMUDA_KEEPALIV", "1"),
        ("REMUDA_CONTROL_SOCKET", "x"),
        ("REMUDA_LOG", "info,remuda_core=debug"),
        ("HOME", "x"),
        ("remuda_workers", "0"),
    ];
    let start = Start { variables, ..Start::default() };
    assert_eq!(start.problems(), ["unknown variable REMUDA_KEEPALIV; did you mean REMUDA_KEEP_ALIVE?"]);
    assert!(start.invoke().settings.log_filter.is_some());
}

#[test]
fn a_remuda_variable_that_is_not_text_is_an_error() {
    use std::os::unix::ffi::OsStringExt;
    let value = OsString::from_vec(b"unix:\xff".to_vec());
    let mut problems = Vec::new();
    variables(vec![("REMUDA_BIND".into(), value.clone()), ("PATH".into(), value)], &mut problems);
    assert_eq!(sentences(&problems), ["the value of REMUDA_BIND is not UTF-8"]);
}

#[test]
fn all_problems_are_reported_together() {
    let start = Start {
        flags: &["-k", "gevent"],
        variables: &[("REMUDA_LINGER", "soon"), ("REMUDA_LOG", "a=b")],
        files: &[("remuda.toml", "wrokers = 2\nthreads = 0")],
        ..Start::default()
    };
    let problems = start.problems();
    assert_eq!(problems.len(), 5, "{problems:#?}");
    let begins = [
        "unknown setting \"wrokers\"",
        "worker-class is \"gevent\"",
        "threads is \"0\"",
        "linger is \"soon\"",
        "log filter is \"a=b\"",
    ];
    for (problem, begin) in problems.iter().zip(begins) {
        assert!(problem.starts_with(begin), "{problem}");
    }
    assert!(
        problems[1].contains("(flag --worker-class); allowed: sync, threaded, gthread, mio, tokio, smol"),
        "{}",
        problems[1]
    );
}

#[test]
fn a_replaced_value_is_not_parsed() {
    let start = Start { flags: &["-w", "2"], variables: &[("REMUDA_WORKERS", "many")], ..Start::default() };
    assert_eq!(start.origin("workers").0, "2");
}

#[test]
fn a_named_file_that_is_missing_or_a_directory_is_an_error() {
    let named = |name| Start { flags: &["-c", name], ..Start::default() }.problems();
    assert_eq!(named("no.toml"), [r#"cannot read the settings file "no.toml": no such file or directory"#]);
    assert_eq!(named("."), [r#"cannot read the settings file ".": is a directory"#]);
}

#[test]
fn a_file_that_is_not_toml_is_an_error_with_its_line() {
    let problems =
        Start { files: &[("remuda.toml", "workers = 2\nthreads = [1\n")], ..Start::default() }.problems();
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.starts_with("remuda.toml line "), "{problem}");
    assert!(problem.contains(" is not TOML: unclosed array"), "{problem}");
}

#[test]
fn arguments_in_a_variable_are_split_as_by_a_shell() {
    let args = |text: &str| Start { variables: &[("REMUDA_ARGS", text)], ..Start::default() }.invoke();
    let read = args(r#"-b 'unix:a b' --bind "unix:c d" -b unix:e\ f site --check-config"#);
    assert_eq!(sentences(&read.problems), [""; 0]);
    assert_eq!(read.settings.arbiter.binds, ["a b", "c d", "e f"].map(|path| Bind::Unix(path.into())));
    assert_eq!(read.app.as_deref(), Some("site"));
    assert_eq!(read.action, Action::Check);
    assert_eq!(sentences(&args("-b 'x").problems), [r#"REMUDA_ARGS is "-b 'x": a quote is not closed"#]);
    assert_eq!(
        sentences(&args("--wrokers 2").problems),
        [r#"REMUDA_ARGS is "--wrokers 2": unexpected argument '--wrokers' found"#]
    );
}

#[test]
fn a_platform_s_variable_that_is_empty_is_as_unset() {
    let variables = &[("PORT", ""), ("WEB_CONCURRENCY", ""), ("REMUDA_LOG", "")];
    let mut start = Start { variables, ..Start::default() };
    assert_eq!(start.origin("bind"), pair(r#"["127.0.0.1:8000"]"#, "default"));
    assert_eq!(start.origin("workers"), pair("1", "default"));
    assert!(start.invoke().settings.log_filter.is_none());
    start.files = &[FILE];
    assert_eq!(start.origin("workers"), pair("2", "remuda.toml line 2"));
}

#[test]
fn names_of_other_servers_are_explained_from_every_source() {
    let start = Start {
        variables: &[("REMUDA_ACCESSLOG", "x"), ("REMUDA_ARGS", "--daemon=true")],
        files: &[("remuda.toml", "certfile = 'x'\nkeepalive = 5\nlimit_request_line = 1\n")],
        ..Start::default()
    };
    let expected = [
        "unknown variable REMUDA_ACCESSLOG; known from gunicorn; here: REMUDA_ACCESS_LOGFILE",
        "REMUDA_ARGS is \"--daemon=true\": unknown flag \"--daemon\"; known from gunicorn; here: the server stays in",
        "unknown setting \"certfile\" (remuda.toml line 1); known from gunicorn; here: TLS is terminated by a proxy",
        "unknown setting \"keepalive\" (remuda.toml line 2); known from gunicorn; here: keep-alive",
        "unknown setting \"limit_request_line\" (remuda.toml line 3); did you mean limit-request-line?",
    ];
    let problems = start.problems();
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, begin) in problems.iter().zip(expected) {
        assert!(problem.starts_with(begin), "{problem}");
    }
}

#[test]
fn a_section_in_the_file_is_refused() {
    let text = "workers = 2\n[server]\nthreads = 8\n";
    let start = Start { files: &[("remuda.toml", text)], ..Start::default() };
    let sentence = "[server] (remuda.toml line 2) is a section, and a settings file has no sections; write its \
                    settings at the top of the file";
    assert_eq!(start.problems(), [sentence]);
}

#[test]
fn a_similar_allowed_word_is_suggested() {
    let meant = |flag: &str, value: &str| {
        let problems = Start { flags: &[flag, value], ..Start::default() }.problems();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        problem.split_once("; did you mean ").map(|(_, rest)| rest.to_owned())
    };
    let some = |word: &str| Some(format!("{word}?"));
    assert_eq!(meant("-k", "tokyo"), some("tokio"));
    assert_eq!(meant("-k", "gevent"), some("tokio"));
    assert_eq!(meant("-k", "uvicorn.workers.UvicornWorker"), some("tokio"));
    assert_eq!(meant("--drain", "finsh"), some("finish"));
    assert_eq!(meant("--drain", "spraed:10s"), some("spread"));
    assert_eq!(meant("--log-level", "critical"), some("error"));
    assert_eq!(meant("--log-level", "warning"), some("warn"));
    assert_eq!(meant("--log-format", "jsn"), some("json"));
    assert_eq!(meant("--log-format", "xml"), None);
    assert_eq!(meant("--drain", "grace:soon"), None, "it is there, and something else is wrong");
}

#[cfg(all(feature = "sync", feature = "threaded"))]
#[test]
fn a_request_timeout_that_sync_cannot_keep_is_refused() {
    let problems = |flags: &[&str]| Start { flags, ..Start::default() }.problems();
    let sentence = "request-timeout is 30 (flag --request-timeout), which is not less than timeout, 30: on sync, the worker is \
                    ended as hung before the client gets 503; allowed: less than timeout, 0 for no limit, or more with the \
                    worker-class threaded";
    assert_eq!(problems(&["-k", "sync", "--request-timeout", "30"]), [sentence]);
    assert_eq!(problems(&["-k", "sync", "--request-timeout", "2", "-t", "1.5"]).len(), 1);
    for right in [
        &["-k", "sync", "--request-timeout", "29"][..],
        &["-k", "sync", "--request-timeout", "30", "-t", "0"],
        &["-k", "sync", "--request-timeout", "0"],
        &["-k", "threaded", "--request-timeout", "30"],
    ] {
        assert_eq!(problems(right), [""; 0], "{right:?}");
    }
}

#[test]
fn variables_of_env_are_in_the_access_log() {
    let format = |flags: &[&str]| Start { flags, ..Start::default() }.invoke().settings.access_format;
    let given = ["-e", "COLOUR=red", "-e", "COLOUR=blue", "--access-logformat", "%({COLOUR}e)s"];
    assert_eq!(*format(&given), Format::parse("blue", |_| None).unwrap());
    let none = ["-e", "OTHER=red", "--access-logformat", "%({COLOUR}e)s"];
    assert_eq!(*format(&none), Format::parse("-", |_| None).unwrap());
}

/// Where a sub-command finds the server, or what is wrong.
fn found(flags: &[&str], variables: &[(&str, &str)], file: &str) -> Result<Option<PathBuf>, Vec<String>> {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("remuda.toml"), file).unwrap();
    let inputs = Inputs {
        arguments: ["remuda"].iter().chain(flags).map(OsString::from).collect(),
        variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        directory: directory.path().to_owned(),
        ..Inputs::of_process(Vec::new())
    };
    let command = command_line("remuda".into(), "1".into(), true, &[]);
    let line = command.clone().try_get_matches_from(&inputs.arguments).unwrap();
    let matches = line.subcommand().unwrap().1;
    control_socket(&command, &line, matches, inputs).map_err(|problems| sentences(&problems))
}

#[test]
fn a_sub_command_finds_the_server_by_precedence() {
    let path = |flags: &[&str], variables: &[(&str, &str)], file: &str| {
        found(flags, variables, file).unwrap().map(|path| path.to_str().unwrap().to_owned())
    };
    let file = "control-socket = 'f'\nworkres = 2\nthreads = 'many'\n";
    assert_eq!(path(&["status"], &[], ""), None);
    assert_eq!(path(&["status"], &[], file).as_deref(), Some("f"), "other faults are the server's");
    let variables = [("REMUDA_CONTROL_SOCKET", "v"), ("REMUDA_WROKERS", "2")];
    assert_eq!(path(&["status"], &variables, file).as_deref(), Some("v"));
    let args = [("REMUDA_ARGS", "--control-socket a"), variables[0]];
    assert_eq!(path(&["status"], &args, file).as_deref(), Some("a"));
    assert_eq!(path(&["status", "--control-socket", "t"], &args, file).as_deref(), Some("t"));
    assert_eq!(path(&["--control-socket", "t", "status"], &args, file).as_deref(), Some("t"));
    assert_eq!(path(&["status"], &[("REMUDA_CONTROL_SOCKET", "")], file), None, "as in the server");

    // A relative path starts where the server's does, but for one that was typed.
    let file = "control-socket = 'f'\nchdir = '/srv'\n";
    assert_eq!(path(&["status"], &[], file).as_deref(), Some("/srv/f"));
    assert_eq!(path(&["status"], &variables, file).as_deref(), Some("/srv/v"));
    assert_eq!(path(&["status"], &[("REMUDA_CHDIR", "/run")], file).as_deref(), Some("/run/f"));
    assert_eq!(path(&["status", "--control-socket", "t"], &[], file).as_deref(), Some("t"));
}

#[test]
fn an_unreadable_file_matters_only_if_the_path_depends_on_it() {
    let broken = "workers = = 2\n";
    let why = found(&["status"], &[], broken).unwrap_err();
    assert!(why.len() == 1 && why[0].starts_with("remuda.toml line 1 is not TOML"), "{why:?}");
    assert!(
        found(&["status"], &[("REMUDA_CONTROL_SOCKET", "relative")], broken).is_err(),
        "chdir may be in it"
    );
    assert!(found(&["status"], &[("REMUDA_CONTROL_SOCKET", "/run/c")], broken).is_ok());
    assert!(found(&["status", "--control-socket", "c"], &[], broken).is_ok());
    for flags in [["-c", "no.toml", "status"], ["status", "-c", "no.toml"]] {
        let why = found(&flags, &[], "").unwrap_err();
        assert!(why[0].starts_with("cannot read the settings file"), "{why:?}");
    }
}

#[test]
fn a_problem_keeps_its_place_in_the_file() {
    let text = "threads = 4\nworkers = 0\n";
    let read = Start { files: &[("remuda.toml", text)], ..Start::default() }.invoke();
    let label = miette::Diagnostic::labels(&read.problems[0]).unwrap().next().unwrap();
    assert_eq!(&text[label.offset()..][..label.len()], "0");
}

#[test]
fn printed_settings_are_an_equal_file() {
    let start = Start {
        flags: &["-w3", "--linger", "250ms", "-b", "unix:a\"b", "-b", "fd://4", "--log-format", "json"],
        variables: &[("REMUDA_LIMIT_REQUEST_BODY", "2M")],
        ..Start::default()
    };
    let first = start.invoke();
    let text = printed(&first.origins);
    let second = Start { files: &[("remuda.toml", &text)], ..Start::default() }.invoke();
    assert_eq!(sentences(&second.problems), [""; 0]);
    assert_eq!(format!("{:?}", second.settings), format!("{:?}", first.settings));
    assert!(second.origins.iter().all(|origin| origin.whence.starts_with("remuda.toml line ")));
    assert!(find("workers").is_some() && text.contains("workers = 3 "), "{text}");
}

#[cfg(all(feature = "sync", feature = "threaded"))]
#[test]
fn a_backend_without_threads_has_one_and_no_more() {
    let mut start = Start { flags: &["-k", "sync"], ..Start::default() };
    assert_eq!(start.origin("threads"), pair("1", "default"));
    assert_eq!(start.invoke().settings.arbiter.worker.threads, 1);
    start.flags = &["-k", "gthread"];
    assert_eq!(start.origin("threads"), pair("4", "default"));

    start.flags = &["-k", "sync", "--threads", "1"];
    assert_eq!(start.origin("threads"), pair("1", "flag --threads"));
    start.flags = &["-k", "sync", "--threads", "4"];
    let sentence = "threads is 4 (flag --threads), which is more than the worker-class sync supports; \
                    allowed: 1, or more with the worker-class threaded";
    assert_eq!(start.problems(), [sentence]);
}

#[test]
fn a_fixed_setting_keeps_its_value_and_is_named() {
    static FIXED: Setting = Setting {
        name: "workers",
        short: None,
        category: Category::Processes,
        kind: Kind::Count { allowed: 1..=1024, set: |s, n| s.arbiter.workers = n as u16 },
        default: "1",
        platform: None,
        reload: false,
        help: "",
        about: "",
    };
    let origin = |setting, value: &str| Origin {
        setting,
        texts: vec![value.into()],
        value: value.into(),
        whence: "default".into(),
    };
    let mut settings = Settings::default();
    let (before, now) = ([origin(&FIXED, "2")], [origin(&FIXED, "3")]);
    settings.arbiter.workers = 3;
    assert_eq!(keep(&before, &now, &mut settings), ["workers"]);
    assert_eq!(settings.arbiter.workers, 2);
    assert_eq!(keep(&before, &before, &mut settings), [""; 0]);
    let free = find("workers").unwrap();
    assert_eq!(keep(&[origin(free, "2")], &[origin(free, "3")], &mut settings), [""; 0]);
}

/// The variables that Kubernetes sets in containers beside a Service, and Docker beside a linked
/// one.
#[test]
fn variables_of_a_service_named_remuda_are_not_settings() {
    let services = [
        ("REMUDA_SERVICE_HOST", "10.0.0.11"),
        ("REMUDA_SERVICE_PORT", "80"),
        ("REMUDA_SERVICE_PORT_HTTP", "80"),
        ("REMUDA_PORT", "tcp://10.0.0.11:80"),
        ("REMUDA_PORT_80_TCP", "tcp://10.0.0.11:80"),
        ("REMUDA_PORT_80_TCP_PROTO", "tcp"),
        ("REMUDA_PORT_80_TCP_PORT", "80"),
        ("REMUDA_PORT_80_TCP_ADDR", "10.0.0.11"),
        ("REMUDA_PORT_53_UDP", "udp://10.0.0.11:53"),
        ("REMUDA_WEB_SERVICE_HOST", "10.0.0.12"),
        ("REMUDA_WEB_V2_SERVICE_PORT_HTTPS", "443"),
        ("REMUDA_WEB_PORT", "sctp://10.0.0.12:80"),
        ("REMUDA_WEB_PORT_80_TCP_ADDR", "fd00::1"),
        // A Service named remuda-reuse.
        ("REMUDA_REUSE_PORT", "tcp://10.0.0.13:80"),
    ];
    let beside = Start { variables: &services, ..Start::default() };
    assert_eq!(beside.problems(), [""; 0]);
    assert_eq!(beside.origin("reuse-port"), pair("false", "default"));
    for (name, value) in [
        ("REMUDA_WORKER", "2"),
        ("REMUDA_PORT", "8000"),
        ("REMUDA_PORT", "http://10.0.0.11:80"),
        ("REMUDA_SERVICE", "remuda"),
        ("REMUDA_PORT_80", "tcp"),
        ("REMUDA_PORT_HTTP_TCP", "tcp"),
        ("REMUDA_SERVICES_HOSTS", "10.0.0.11"),
    ] {
        let typo = Start { variables: &[(name, value)], ..Start::default() };
        let problems = typo.problems();
        assert!(problems.len() == 1 && problems[0].contains(name), "{name}: {problems:?}");
    }
    // No setting can be hidden by that, whatever it is called.
    for setting in table() {
        assert!(!is_of_a_service(&setting.variable(), OsStr::new("80")), "{}", setting.name);
    }
}
