use std::time::Duration;

use super::*;
use crate::settings::find;

fn apply(setting: &str, text: &str) -> Result<String, Refusal> {
    find(setting).unwrap().kind.apply(&[text.to_owned()], &mut Settings::default())
}

#[test]
fn a_whole_number_is_digits() {
    assert_eq!(whole("12"), Some(12));
    for text in ["", "-1", "+1", "1.0", "1e3", " 1", "0x10", "1_000", "18446744073709551616"] {
        assert_eq!(whole(text), None, "{text:?}");
    }
}

#[test]
fn bytes_may_have_a_unit_of_1024() {
    assert_eq!(size("8190"), Some(8190));
    assert_eq!(size("64K"), Some(65536));
    assert_eq!(size("16m"), Some(16 << 20));
    assert_eq!(size("1G"), Some(1 << 30));
    for text in ["", "K", "1T", "1KB", "1.5M", "-1K", "99999999999G"] {
        assert_eq!(size(text), None, "{text:?}");
    }
}

#[test]
fn a_time_is_seconds_or_has_a_unit() {
    assert_eq!(time("5"), Some(Duration::from_secs(5)));
    assert_eq!(time("0.5"), Some(Duration::from_millis(500)));
    assert_eq!(time("500ms"), Some(Duration::from_millis(500)));
    assert_eq!(time("30s"), Some(Duration::from_secs(30)));
    assert_eq!(time("2m"), Some(Duration::from_secs(120)));
    assert_eq!(time("1.5h"), Some(Duration::from_secs(5400)));
    for text in ["", "s", ".", "1.2.3", "-1", "1e3", "inf", "nan", "5 s", "5d", "1us"] {
        assert_eq!(time(text), None, "{text:?}");
    }
    // No number of digits makes it panic.
    assert_eq!(time(&"9".repeat(400)), None);
}

#[test]
fn ranges_include_both_ends_and_nothing_beyond() {
    assert_eq!(apply("workers", "1").as_deref(), Ok("1"));
    assert_eq!(apply("workers", "1024").as_deref(), Ok("1024"));
    assert_eq!(apply("workers", "0"), Err(Refusal(None)));
    assert_eq!(apply("workers", "1025"), Err(Refusal(None)));
    assert_eq!(apply("limit-request-line", "64K").as_deref(), Ok("65536"));
    assert_eq!(apply("limit-request-line", "65K"), Err(Refusal(None)));
    assert_eq!(apply("keep-alive", "8760h").as_deref(), Ok("31536000"));
    assert_eq!(apply("keep-alive", "31536000.1"), Err(Refusal(None)));
}

#[test]
fn a_time_is_printed_in_seconds() {
    assert_eq!(apply("linger", "250ms").as_deref(), Ok("0.25"));
    assert_eq!(apply("linger", "2m").as_deref(), Ok("120"));
}

#[test]
fn a_word_not_built_in_differs_from_an_unknown_word() {
    assert_eq!(apply("worker-class", "gevent"), Err(Refusal(None)));
}

#[test]
fn a_jitter_is_a_number_or_a_percentage() {
    for text in ["0", "51", "0%", "10%", "100%"] {
        assert_eq!(apply("max-requests-jitter", text), Ok(quoted(&text)));
    }
    for text in ["", "%", "101%", "-1", "1.5%", "10 %", "10%%"] {
        assert_eq!(apply("max-requests-jitter", text), Err(Refusal(None)), "{text:?}");
    }
}

#[test]
fn a_policy_is_printed_as_it_was_written() {
    assert_eq!(apply("drain", "grace:500ms").as_deref(), Ok("\"grace:500ms\""));
    assert_eq!(apply("drain", "Finish"), Err(Refusal(None)));
}

#[test]
fn a_single_value_is_not_a_list() {
    let kind = &find("workers").unwrap().kind;
    let refusal = Refusal(Some("but it takes one value".into()));
    assert_eq!(kind.apply(&["1".into(), "2".into()], &mut Settings::default()), Err(refusal.clone()));
    assert_eq!(kind.apply(&[], &mut Settings::default()), Err(refusal));
}

#[test]
fn a_refused_value_leaves_the_settings_alone() {
    let mut settings = Settings::default();
    let before = format!("{settings:?}");
    assert!(find("bind").unwrap().kind.apply(&["fd://3".into(), "x".into()], &mut settings).is_err());
    assert_eq!(format!("{settings:?}"), before);
}

#[test]
fn peers_are_addresses_and_networks() {
    assert_eq!(apply("forwarded-allow-ips", "10.0.0.0/8, ::1").as_deref(), Ok(r#"["10.0.0.0/8","::1"]"#));
    assert_eq!(apply("proxy-allow-from", "unix").as_deref(), Ok(r#"["unix"]"#));
    assert_eq!(apply("proxy-allow-from", "*").as_deref(), Ok(r#"["*"]"#));
    for text in ["localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.1:80"] {
        let refusal = Refusal(Some(format!("but {text:?} is invalid")));
        assert_eq!(apply("forwarded-allow-ips", &format!("127.0.0.1,{text}")), Err(refusal));
    }
}
