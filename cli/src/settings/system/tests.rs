use remuda_arbiter::ProcessConfig;
use tempfile::tempdir;

use super::*;
use crate::settings::find;

/// What becomes of the settings, one after the other.
fn process(written: &[(&str, &str)]) -> Result<ProcessConfig, Refusal> {
    let mut settings = Settings::default();
    for (name, text) in written {
        find(name).unwrap().kind.apply(&[(*text).to_owned()], &mut settings)?;
    }
    Ok(settings.arbiter.process)
}

fn refused(written: &[(&str, &str)]) -> String {
    process(written).expect_err("it is refused").0.expect("a reason is given")
}

#[test]
fn an_empty_text_is_none() {
    let names = ["chdir", "pid", "group", "user", "umask", "env", "name"];
    let process = process(&names.map(|name| (name, ""))).unwrap();
    assert_eq!(format!("{process:?}"), format!("{:?}", ProcessConfig::default()));
}

#[test]
fn a_pidfile_is_relative_to_chdir() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("run")).unwrap();
    let chdir = ("chdir", dir.path().to_str().unwrap());
    let set = process(&[chdir, ("pid", "run/app.pid")]).unwrap();
    assert_eq!(set.pidfile.unwrap(), Path::new("run/app.pid"));
    assert_eq!(set.directory.unwrap(), dir.path());
    assert_eq!(refused(&[chdir, ("pid", "run")]), "which is a directory");
    assert_eq!(refused(&[("pid", "/")]), "which is a directory");
    assert_eq!(refused(&[("pid", "/nowhere/app.pid")]), r#""/nowhere": no such file or directory"#);
    assert_eq!(refused(&[("pid", "/dev/null/app.pid")]), r#""/dev/null" is not a directory"#);
}

#[test]
fn a_directory_has_to_exist() {
    assert_eq!(refused(&[("chdir", "/nowhere")]), r#""/nowhere": no such file or directory"#);
    assert_eq!(refused(&[("chdir", "/dev/null")]), r#""/dev/null" is not a directory"#);
}

#[test]
fn users_and_groups_have_to_exist() {
    assert_eq!(refused(&[("user", "no one")]), "and no such user exists");
    assert_eq!(refused(&[("group", "no one")]), "and no such group exists");
}

#[test]
fn a_uid_without_a_user_needs_a_group() {
    // A user other than root may not name it at all.
    let why = refused(&[("user", "3999999999")]);
    assert!(why.contains("group has to be set") || why.contains("only root"), "{why}");
}

#[test]
fn a_umask_is_octal() {
    let umask = |text| process(&[("umask", text)]).map(|process| process.umask.unwrap());
    assert_eq!(umask("022"), Ok(0o22));
    assert_eq!(umask("0o7"), Ok(7));
    assert_eq!(umask("0"), Ok(0));
    for text in ["8", "1000", "-1", "+7", "0x7", "u=rwx", "0o"] {
        assert_eq!(umask(text), Err(Refusal(None)), "{text:?}");
    }
}

#[test]
fn a_name_is_one_line() {
    assert_eq!(process(&[("name", "my shop")]).unwrap().name.unwrap(), "my shop");
    assert!(process(&[("name", "my\nshop")]).is_err());
}
