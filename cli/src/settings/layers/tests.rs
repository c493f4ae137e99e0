use std::fs;

use remuda_arbiter::Bind;
use tempfile::TempDir;

use super::*;
use crate::settings::{Category, Kind, LogFormat, command, find, printed};

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
        };
        read(&command::command("remuda".into(), "1".into(), true, &[]), inputs).unwrap()
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
fn listeners_that_were_passed_on_are_the_default() {
    let passed = Start { activated: true, ..Start::default() };
    assert_eq!(passed.origin("bind"), pair(r#"["systemd"]"#, "variable LISTEN_FDS"));
    let told = Start { flags: &["-b", "127.0.0.1:1"], ..passed };
    assert_eq!(told.origin("bind"), pair(r#"["127.0.0.1:1"]"#, "flag --bind"));
}

#[test]
fn nothing_written_is_the_default() {
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
        [format!(r#"workers is ["1","2"] (remuda.toml line 1), one value is wanted; {allowed}"#)]
    );
    let truth = Start { files: &[("remuda.toml", "workers = true")], ..Start::default() };
    assert_eq!(truth.problems(), [format!(r#"workers is "true" (remuda.toml line 1); {allowed}"#)]);
    let flag = Start { flags: &["-w", "-1"], ..Start::default() };
    assert_eq!(flag.problems(), [format!(r#"workers is "-1" (flag --workers); {allowed}"#)]);
    let empty = Start { variables: &[("WEB_CONCURRENCY", "")], ..Start::default() };
    assert_eq!(empty.problems(), [format!(r#"workers is "" (variable WEB_CONCURRENCY); {allowed}"#)]);
    let port = Start { variables: &[("PORT", "http")], ..Start::default() };
    assert_eq!(
        port.problems(),
        [
            r#"bind is "0.0.0.0:http" (variable PORT), port "http" is not from 0 to 65535; allowed: HOST:PORT, [V6]:PORT, unix:PATH, fd://N, fd://NAME, systemd"#
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
            r#"unknown setting "x y" (remuda.toml line 2); --help lists the settings there are"#,
            r#"unknown setting "worker_class" (remuda.toml line 3); did you mean worker-class?"#,
        ]
    );
}

#[test]
fn an_unknown_variable_of_ours_is_an_error_and_others_are_nobodys_business() {
    let variables = &[
        ("REMUDA_KEEPALIVE", "1"),
        ("REMUDA_CONTROL_SOCKET", "x"),
        ("REMUDA_LOG", "info,remuda_core=debug"),
        ("HOME", "x"),
        ("remuda_workers", "0"),
    ];
    let start = Start { variables, ..Start::default() };
    assert_eq!(start.problems(), ["unknown variable REMUDA_KEEPALIVE; did you mean REMUDA_KEEP_ALIVE?"]);
    assert!(start.invoke().settings.log_filter.is_some());
}

#[test]
fn a_variable_that_is_not_text_is_an_error_if_it_is_ours() {
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
        "the log's filter is \"a=b\"",
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
fn what_a_higher_layer_replaces_is_not_read() {
    let start = Start { flags: &["-w", "2"], variables: &[("REMUDA_WORKERS", "many")], ..Start::default() };
    assert_eq!(start.origin("workers").0, "2");
}

#[test]
fn a_file_that_is_missing_or_a_directory_is_an_error_if_it_was_named() {
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
fn a_place_in_the_file_is_kept_for_the_picture() {
    let text = "threads = 4\nworkers = 0\n";
    let read = Start { files: &[("remuda.toml", text)], ..Start::default() }.invoke();
    let label = miette::Diagnostic::labels(&read.problems[0]).unwrap().next().unwrap();
    assert_eq!(&text[label.offset()..][..label.len()], "0");
}

#[test]
fn printed_settings_are_a_file_that_says_the_same() {
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
    let sentence = "threads is 4 (flag --threads), which is more than the worker-class sync has; \
                    allowed: 1, or more with the worker-class threaded";
    assert_eq!(start.problems(), [sentence]);
}

#[test]
fn what_no_reload_changes_keeps_its_value_and_is_named() {
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
