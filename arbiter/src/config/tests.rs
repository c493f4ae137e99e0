use super::*;

#[test]
fn binds_are_formatted_as_in_the_settings() {
    for (bind, text) in [
        (Bind::Inet(([127, 0, 0, 1], 8000).into()), "127.0.0.1:8000"),
        (Bind::Unix("/run/app.sock".into()), "unix:/run/app.sock"),
        (Bind::Fd(3), "fd://3"),
        (Bind::Named("web".into()), "fd://web"),
        (Bind::Activated, "systemd"),
    ] {
        assert_eq!(bind.to_string(), text);
    }
}
