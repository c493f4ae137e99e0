use std::collections::HashSet;
use std::time::Duration;

use remuda_core::config::{Jitter, Underscores};
use remuda_core::proxy::ProxyProtocol;
use remuda_core::trust::Trusted;
use remuda_core::worker::Policies;

use super::*;
use crate::client::command_line;

/// The default settings, with `name` set to `text`.
fn with(name: &str, text: &str) -> Settings {
    let mut settings = Settings::default();
    let setting = find(name).expect("a setting of the table");
    setting.kind.apply(&[text.to_owned()], &mut settings).expect("an allowed value");
    settings
}

#[test]
fn names_flags_and_variables_are_unique() {
    let mut names = HashSet::new();
    let mut shorts = HashSet::new();
    let mut variables = HashSet::new();
    for setting in table() {
        assert!(names.insert(setting.name), "{} is there twice", setting.name);
        assert!(variables.insert(setting.variable()), "{} is there twice", setting.variable());
        for variable in setting.platform.iter().map(|platform| platform.variable) {
            assert!(variables.insert(variable.to_owned()), "{variable} is there twice");
        }
        if let Some(short) = setting.short {
            assert!(shorts.insert(short), "-{short} is there twice");
        }
    }
    // clap's own checks, among them that flags are unique.
    command_line("remuda".into(), "1".into(), true, &[]).debug_assert();
}

#[test]
fn names_are_kebab_case_and_variables_follow() {
    for setting in table() {
        let kebab = |b: u8| b.is_ascii_lowercase() || b == b'-';
        assert!(setting.name.bytes().all(kebab), "{}", setting.name);
    }
    assert_eq!(find("limit-request-field-size").unwrap().variable(), "REMUDA_LIMIT_REQUEST_FIELD_SIZE");
}

#[test]
fn every_setting_is_documented() {
    for setting in table() {
        assert!(setting.help.len() > 10, "{} has no help", setting.name);
        assert!(!setting.help.ends_with('.'), "the help of {} is no sentence", setting.name);
        assert!(setting.about.ends_with('.'), "what is said about {} is sentences", setting.name);
    }
}

#[test]
fn a_zero_that_means_something_else_is_explained() {
    let is_text = |setting: &&Setting| {
        matches!(setting.kind, Kind::Text { .. } | Kind::Log { .. } | Kind::AccessFormat { .. })
    };
    for setting in table().filter(|setting| !is_text(setting)) {
        let allows_zero = setting.kind.apply(&["0".into()], &mut Settings::default()).is_ok();
        let explained =
            setting.help.contains("0:") || setting.about.contains(" 0 ") || setting.about.starts_with("0 ");
        assert!(!allows_zero || explained, "what does {} 0 mean?", setting.name);
    }
}

#[cfg(feature = "tokio")]
#[test]
fn every_default_is_allowed_and_printed_as_itself() {
    for setting in table() {
        let mut settings = Settings::default();
        let before = format!("{settings:?}");
        let printed = setting.kind.apply(&[setting.default.to_owned()], &mut settings);
        let bare = printed.unwrap_or_else(|_| panic!("the default of {} is not allowed", setting.name));
        // The default of a list may be empty.
        let words: Vec<_> = setting.default.split(',').filter(|word| !word.is_empty()).collect();
        let (text, list) = (value::quoted(&setting.default), value::quoted(&words));
        assert!([setting.default, &text, &list].contains(&&*bare), "{}: {bare}", setting.name);
        assert_eq!(format!("{settings:?}"), before, "the default of {} is not the default", setting.name);
    }
}

#[test]
fn defaults_are_those_of_the_crates_below() {
    let settings = Settings::default();
    assert_eq!(format!("{:?}", settings.arbiter), format!("{:?}", ArbiterConfig::default()));
}

#[test]
fn each_setting_sets_its_field() {
    assert_eq!(with("workers", "7").arbiter.workers, 7);
    assert_eq!(with("workers", "1024").arbiter.workers, 1024);
    assert!(with("preload", "true").arbiter.preload);
    assert_eq!(with("backlog", "2147483647").arbiter.backlog, 2_147_483_647);
    assert_eq!(with("bind", "fd://3").arbiter.binds, [Bind::Fd(3)]);
    assert_eq!(with("log-level", "trace").log_level, Level::TRACE);
    let abstract_name =
        find("control-socket").unwrap().kind.apply(&["@control".into()], &mut Settings::default());
    assert!(abstract_name.unwrap_err().0.is_some_and(|why| why.contains("./ in front")));
    assert_eq!(with("control-socket", "run/control").arbiter.control_socket, Some("run/control".into()));
    assert_eq!(with("admin-bind", "unix:admin").arbiter.admin, Some(Bind::Unix("admin".into())));
    assert_eq!(with("admin-bind", "").arbiter.admin, None);
    assert_eq!(with("log-format", "json").log_format, LogFormat::Json);

    assert_eq!(with("error-logfile", "-").error_log, LogTarget::Stream);
    assert_eq!(with("error-logfile", "off").error_log, LogTarget::File("off".into()));
    assert_eq!(with("access-logfile", "off").access_log, None);
    assert_eq!(with("access-logfile", "-").access_log, Some(LogTarget::Stream));
    assert_eq!(with("access-logfile", "/x/y").access_log, Some(LogTarget::File("/x/y".into())));
    let json = Format::parse("json", |_| None).unwrap();
    assert_eq!(*with("access-logformat", "json").access_format, json);

    let worker = |name, text| with(name, text).arbiter.worker;
    assert_eq!(worker("threads", "9").threads, 9);
    assert_eq!(worker("worker-connections", "0").connections, 0);
    assert_eq!(worker("timeout", "9").timeout, Duration::from_secs(9));
    assert_eq!(worker("timeout", "0").timeout, Duration::ZERO);
    assert_eq!(with("boot-timeout", "90").arbiter.boot_timeout, Duration::from_secs(90));
    assert_eq!(with("max-boot-failures", "5").arbiter.max_boot_failures, 5);
    assert_eq!(worker("max-requests", "1000").max_requests, 1000);
    assert_eq!(worker("max-requests-jitter", "50").max_requests_jitter, Jitter::Count(50));
    assert_eq!(worker("max-requests-jitter", "5%").max_requests_jitter, Jitter::Percent(5));
    assert_eq!(with("max-lifetime", "1h").arbiter.max_lifetime, Duration::from_secs(3600));
    assert_eq!(with("max-lifetime-jitter", "2m").arbiter.max_lifetime_jitter, Jitter::Count(120_000_000_000));
    assert_eq!(with("max-lifetime-jitter", "25%").arbiter.max_lifetime_jitter, Jitter::Percent(25));
    assert_eq!(with("max-rss", "512M").arbiter.max_rss, 512 << 20);
    assert_eq!(with("max-rss-jitter", "64M").arbiter.max_rss_jitter, Jitter::Count(64 << 20));
    assert_eq!(with("max-rss-jitter", "0").arbiter.max_rss_jitter, Jitter::Count(0));
    assert_eq!(with("recycle-concurrency", "3").arbiter.recycle_concurrency, 3);
    assert_eq!(with("reload-concurrency", "4").arbiter.reload_concurrency, 4);
    assert_eq!(with("lameduck", "15").arbiter.lameduck, Duration::from_secs(15));
    assert_eq!(worker("graceful-timeout", "8").graceful_timeout, Duration::from_secs(8));

    let policies = |name| {
        let Policies { stop, reload, recycle, .. } = with(name, "close-idle").arbiter.policies;
        format!("{stop:?} {reload:?} {recycle:?}")
    };
    assert_eq!(policies("drain"), "CloseIdle Handoff(Finish) Handoff(Finish)");
    assert_eq!(policies("drain-reload"), "Finish CloseIdle Handoff(Finish)");
    assert_eq!(policies("drain-recycle"), "Finish Handoff(Finish) CloseIdle");

    let limits = |name, text| worker(name, text).limits;
    assert_eq!(limits("keep-alive", "0.5").keep_alive, Duration::from_millis(500));
    assert_eq!(limits("header-timeout", "1").header_timeout, Duration::from_secs(1));
    assert_eq!(limits("body-timeout", "2").body_timeout, Duration::from_secs(2));
    assert_eq!(limits("write-timeout", "3").write_timeout, Duration::from_secs(3));
    assert_eq!(limits("min-body-rate", "1K").body_rate, 1024);
    assert_eq!(limits("min-write-rate", "0").write_rate, 0);
    assert!(limits("cancel-on-half-close", "true").cancel_on_half_close);
    assert_eq!(limits("request-timeout", "3").request_timeout, Duration::from_secs(3));
    assert_eq!(limits("linger", "4").linger, Duration::from_secs(4));
    assert_eq!(limits("limit-request-head", "8K").head, 8192);
    assert_eq!(limits("limit-request-line", "64K").request_line, 65536);
    assert_eq!(limits("limit-request-fields", "5").fields, 5);
    assert_eq!(limits("limit-request-field-size", "100").field_size, 100);
    assert_eq!(limits("limit-request-body", "1G").body, 1 << 30);
    assert_eq!(limits("limit-request-framing", "1G").framing, 1 << 30);
    assert_eq!(limits("limit-unread-body", "1M").unread_body, 1 << 20);
    assert_eq!(limits("limit-linger", "4M").linger_size, 4 << 20);
    assert!(limits("interim-responses", "true").interim_responses);
    assert_eq!(limits("pipeline-budget", "1").pipeline_budget, 1);

    let front = |name, text| limits(name, text).proxies;
    assert_eq!(front("proxy-protocol", "v1").proxy_protocol, ProxyProtocol::V1);
    assert_eq!(front("proxy-protocol", "v2").proxy_protocol, ProxyProtocol::V2);
    assert_eq!(front("proxy-protocol", "auto").proxy_protocol, ProxyProtocol::Auto);
    assert_eq!(front("header-map", "refuse").underscores, Underscores::Refuse);
    assert_eq!(front("header-map", "dangerous").underscores, Underscores::Keep);
    let networks = Trusted::parse(["10.0.0.0/8", "fd00::1"]).unwrap();
    assert_eq!(front("proxy-allow-from", "10.0.0.0/8, fd00::1").proxy_allow_from, Some(networks.clone()));
    assert_eq!(front("proxy-allow-from", "").proxy_allow_from, None);
    assert_eq!(front("forwarded-allow-ips", "10.0.0.0/8,fd00::1").forwarded, networks);
    assert!(front("forwarded-allow-ips", "").forwarded.is_empty());
}
