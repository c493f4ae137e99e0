use std::collections::BTreeSet;

use super::*;
use crate::client::command_line;

#[test]
fn every_counterpart_exists() {
    let command = command_line("remuda".into(), "1".into(), true, &[]);
    let flags: BTreeSet<String> = command
        .clone()
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .chain(["help", "version"])
        .map(|long| format!("--{long}"))
        .collect();
    for other in elsewhere() {
        let Elsewhere { server, names, here } = other;
        let flag = names[0];
        match here {
            Same(_) => assert!(flags.contains(flag), "{server}: there is no {flag} here"),
            Named("-c, --config", _) => {}
            Named(name, _) => {
                assert!(find(name).is_some(), "{server} {flag}: there is no setting {name}");
                assert!(!flags.contains(flag) || flag == "--environment", "{server}: {flag} is here, too");
            }
            Instead(words) => {
                assert!(!flags.contains(flag), "{server}: {flag} is here");
                assert!(!words.ends_with('.') && words.len() > 10, "{server} {flag}: {words}");
            }
        }
    }
}

#[test]
fn names_of_a_server_are_unique() {
    let mut seen = BTreeSet::new();
    for Elsewhere { server, names, .. } in elsewhere() {
        for name in names {
            assert!(seen.insert((server, *name)), "{server} has {name} twice");
        }
    }
}

#[test]
fn a_name_is_known_as_flag_key_and_variable() {
    let tls = "known from gunicorn; here: TLS is terminated by a proxy in front; see the book's page Behind proxies";
    for name in ["--certfile", "certfile", "CERTFILE"] {
        assert_eq!(advice(name, as_flag).as_deref(), Some(tls), "{name}");
    }
    let begins = |name: &str, words: &str| {
        let advice = advice(name, as_flag).unwrap_or_else(|| panic!("{name}"));
        assert!(advice.starts_with(words), "{name}: {advice}");
    };
    begins("--daemon", "known from gunicorn; here: the server stays in the foreground");
    begins("-D", "known from gunicorn; here: the server stays in the foreground");
    begins("--reload", "known from gunicorn and uvicorn; here: files are not watched");
    begins("--timeout-keep-alive", "known from uvicorn; here: --keep-alive");
    begins("timeout_keep_alive", "known from uvicorn; here: --keep-alive");
    begins("keepalive", "known from gunicorn; here: --keep-alive");
    begins("-C", "known from puma; here: -c, --config, a TOML file");
    assert!(
        advice("-R", as_flag)
            .is_some_and(|advice| advice.contains("known from puma; here: `remuda upgrade`"))
    );
    let key = advice("keepalive", |setting| setting.name.to_owned());
    assert_eq!(key.as_deref(), Some("known from gunicorn; here: keep-alive"));
    // What is here, and only misspelt, is not another server's.
    for name in ["--wrokers", "-d", "d", "D", "-certfile", "", "worker_class", "--limit-request-field_size"] {
        assert_eq!(advice(name, as_flag), None, "{name}");
    }
}
