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
fn empty_is_none() {
    let names = ["chdir", "pid", "group", "user", "umask", "env", "name"];
    let process = process(&names.map(|name| (name, ""))).unwrap();
    assert_eq!(format!("{process:?}"), format!("{:?}", ProcessConfig::default()));
}

#[test]
fn a_pidfile_is_looked_for_where_the_server_will_be() {
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
fn a_directory_has_to_be_there() {
    assert_eq!(refused(&[("chdir", "/nowhere")]), r#""/nowhere": no such file or directory"#);
    assert_eq!(refused(&[("chdir", "/dev/null")]), r#""/dev/null" is not a directory"#);
}

#[test]
fn users_and_groups_have_to_be_there() {
    assert_eq!(refused(&[("user", "no one")]), "and there is no such user");
    assert_eq!(refused(&[("group", "no one")]), "and there is no such group");
}

#[test]
fn a_number_that_no_user_has_needs_a_group() {
    // Who is not root may not name it at all.
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
fn variables_have_a_name_and_a_value() {
    let all = |texts: &[&str]| variables(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(all(&["A=1", "B=x=y", "C="]).unwrap(), [pair("A", "1"), pair("B", "x=y"), pair("C", "")]);
    assert_eq!(all(&["A"]), Err(because(r#""A" is not NAME=VALUE"#)));
    assert_eq!(all(&["=1"]), Err(because(r#""=1" is not NAME=VALUE"#)));
}

#[test]
fn a_name_is_one_line() {
    assert_eq!(process(&[("name", "my shop")]).unwrap().name.unwrap(), "my shop");
    assert!(process(&[("name", "my\nshop")]).is_err());
}
