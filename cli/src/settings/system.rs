//! Directory, files, user and names of the processes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use remuda_arbiter::{Group, User};

use super::Settings;
use super::kind::Kind;
use super::setting::{Category, Setting};
use super::value::{Refusal, because, reason};

/// In the order of evaluation: relative paths start in `chdir`, and a user may need a group.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        help: "Directory that the server changes to before anything else",
        about: "Relative paths of pid and of unix sockets start there; the path of the settings \
                file does not. Empty: the directory in which the server was started.",
        ..text("chdir", None, "PATH", "a directory", directory)
    },
    Setting {
        short: Some('p'),
        help: "File that holds the arbiter's process id",
        about: "It is removed at the end. A server does not start while another running server \
                holds the file; the file of a dead server is replaced. Empty: none.",
        ..text("pid", None, "PATH", "a file in a directory that exists", pidfile)
    },
    Setting {
        help: "Group that workers run as, by name or number",
        about: "Only root may name a group other than its own. Empty: the first group of user if \
                that is set, else the group that the server was started with.",
        ..text("group", Some('g'), "GROUP", "the name or number of a group", group)
    },
    Setting {
        help: "User that workers run as, by name or number",
        about: "A worker has all groups of that user. The arbiter keeps its own user; only root may \
                name another user. Unix sockets are given to that user. Empty: the user that \
                started the server.",
        ..text("user", Some('u'), "USER", "the name or number of a user", user)
    },
    Setting {
        help: "Permissions that files and unix sockets do not get, in octal",
        about: "0 lets every user connect to a unix socket, 007 its user and group, 077 its user \
                alone. Empty: the umask that the server was started with.",
        ..text("umask", Some('m'), "MODE", "three octal digits or fewer", umask)
    },
    Setting {
        short: Some('e'),
        kind: Kind::Variables { set: |s, variables| s.arbiter.process.variables = variables },
        help: "Environment variable of the server, as NAME=VALUE",
        about: "May be given several times; in a variable, entries are separated by commas. It does \
                not count as a source of settings.",
        ..text("env", None, "", "", |_, _| Ok(()))
    },
    Setting {
        help: "Text in brackets behind the role of each process in ps(1)",
        about: "As in remuda: worker 0 [NAME]. Empty: the role alone.",
        ..text("name", Some('n'), "NAME", "a text of one line", name)
    },
];

/// The common part of these settings, without texts.
const fn text(
    name: &'static str,
    short: Option<char>,
    placeholder: &'static str,
    allowed: &'static str,
    set: fn(&mut Settings, Option<&str>) -> Result<(), Refusal>,
) -> Setting {
    Setting {
        name,
        short,
        category: Category::System,
        kind: Kind::Text { placeholder, allowed, set },
        default: "",
        platform: None,
        reload: false,
        help: "",
        about: "",
    }
}

fn directory(settings: &mut Settings, text: Option<&str>) -> Result<(), Refusal> {
    let path = text.map(PathBuf::from);
    if let Some(path) = &path {
        is_directory(path)?;
    }
    settings.arbiter.process.directory = path;
    Ok(())
}

fn pidfile(settings: &mut Settings, text: Option<&str>) -> Result<(), Refusal> {
    let path = text.map(PathBuf::from);
    if let Some(path) = &path {
        let start = settings.arbiter.process.directory.as_deref().unwrap_or_else(|| Path::new(""));
        let path = start.join(path);
        if path.is_dir() || path.file_name().is_none() {
            return Err(because("which is a directory"));
        }
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => is_directory(parent)?,
            _ => {}
        }
    }
    settings.arbiter.process.pidfile = path;
    Ok(())
}

fn is_directory(path: &Path) -> Result<(), Refusal> {
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => Ok(()),
        Ok(_) => Err(because(format!("{path:?} is not a directory"))),
        Err(error) => Err(because(format!("{path:?}: {}", reason(&error)))),
    }
}

fn user(settings: &mut Settings, text: Option<&str>) -> Result<(), Refusal> {
    let user = text.map(|text| known(User::find(text), "user")).transpose()?;
    match &user {
        Some(user) if !user.is_allowed() => {
            return Err(because("and only root may name another user than its own"));
        }
        Some(user) if user.lacks_group() && settings.arbiter.process.group.is_none() => {
            return Err(because("which is not in the user database, so group has to be set as well"));
        }
        _ => settings.arbiter.process.user = user,
    }
    Ok(())
}

fn group(settings: &mut Settings, text: Option<&str>) -> Result<(), Refusal> {
    let group = text.map(|text| known(Group::find(text), "group")).transpose()?;
    if group.as_ref().is_some_and(|group| !group.is_allowed()) {
        return Err(because("and only root may name another group than its own"));
    }
    settings.arbiter.process.group = group;
    Ok(())
}

fn known<T>(found: io::Result<Option<T>>, what: &str) -> Result<T, Refusal> {
    match found {
        Ok(found) => found.ok_or_else(|| because(format!("and no such {what} exists"))),
        Err(error) => Err(because(format!("which cannot be looked up: {}", reason(&error)))),
    }
}

fn umask(settings: &mut Settings, text: Option<&str>) -> Result<(), Refusal> {
    let mask = text.map(|text| {
        let digits = text.strip_prefix("0o").unwrap_or(text); // as TOML has it
        let octal = digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        u32::from_str_radix(digits, 8).ok().filter(|mask| octal && *mask <= 0o777).ok_or(Refusal(None))
    });
    settings.arbiter.process.umask = mask.transpose()?;
    Ok(())
}

fn name(settings: &mut Settings, text: Option<&str>) -> Result<(), Refusal> {
    if text.is_some_and(|text| text.contains(char::is_control)) {
        return Err(Refusal(None));
    }
    settings.arbiter.process.name = text.map(str::to_owned);
    Ok(())
}

#[cfg(test)]
mod tests;
