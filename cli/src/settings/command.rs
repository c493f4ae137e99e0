//! The command line, generated from the table.

use std::sync::Arc;

use clap::{Arg, ArgAction, Command};
use remuda_core::worker::Worker;

use super::Settings;
use super::operators::CONTROL_SOCKET;
use super::table::{Setting, table};
use crate::client;

pub(super) const APP: &str = "APP";
pub(super) const CONFIG: &str = "config";
pub(super) const CHECK: &str = "check-config";
pub(super) const PRINT: &str = "print-config";

/// The command line of a program called `name`. `takes_app`: whether it can be told what to serve.
pub(crate) fn command(
    name: String,
    version: String,
    takes_app: bool,
    backends: &[Arc<dyn Worker>],
) -> Command {
    let settings = Settings { backends: backends.to_vec(), ..Settings::default() };
    let app = Arg::new(APP).help("What to serve; nothing: the built-in demo application");
    Command::new(name)
        .version(version)
        .about(
            "An HTTP server: one arbiter process, any number of workers, and a contract about how they stop",
        )
        .after_help(
            "Every setting is also read from the settings file (TOML, under the name of its flag), from a \
             variable (--worker-class: REMUDA_WORKER_CLASS) and from REMUDA_ARGS, a whole command line. \
             Flags count before REMUDA_ARGS, that before variables, these before the file.",
        )
        .args_override_self(true)
        .disable_help_subcommand(true)
        .subcommands(client::commands())
        .args(takes_app.then_some(app))
        .args(table().map(|setting| flag(setting, &settings)))
        .args([
            Arg::new(CONFIG)
                .short('c')
                .long(CONFIG)
                .value_name("FILE")
                .help("Settings file [default: remuda.toml, if it is there]"),
            Arg::new(CHECK)
                .long(CHECK)
                .action(ArgAction::SetTrue)
                .help("Say whether the settings are right, by exit status 0 or 2, and start nothing"),
            Arg::new(PRINT)
                .long(PRINT)
                .action(ArgAction::SetTrue)
                .help("Print the settings, as a settings file, with the source of each, and start nothing"),
        ])
        .mut_args(|arg| match arg.get_help_heading() {
            None if !arg.is_positional() => arg.help_heading("Configuration"),
            _ => arg,
        })
}

fn flag(setting: &'static Setting, settings: &Settings) -> Arg {
    let default = match setting.default {
        "" => String::new(),
        value => format!(" [default: {value}]"),
    };
    let short = format!("{}{default}", setting.help);
    let long = format!("{short}\n\n{}\n\n{}", setting.about, facts(setting, settings));
    let arg = Arg::new(setting.name)
        .long(setting.name)
        .value_name(setting.kind.placeholder())
        // So that a negative number is refused with what would be allowed, not as an unknown flag.
        .allow_negative_numbers(true)
        .action(if setting.kind.is_list() { ArgAction::Append } else { ArgAction::Set })
        .help_heading(setting.category.to_string())
        .global(setting.name == CONTROL_SOCKET)
        .help(short)
        .long_help(long);
    let arg = match setting.kind.is_switch() {
        true => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        false => arg,
    };
    match setting.short {
        Some(short) => arg.short(short),
        None => arg,
    }
}

/// What the table knows besides its texts.
fn facts(setting: &Setting, settings: &Settings) -> String {
    let platform = setting.platform.map(|p| format!(", or below it {}", p.variable)).unwrap_or_default();
    let reload = if setting.reload { "" } else { "; a reload does not change it" };
    let allowed = setting.kind.allowed(settings);
    format!("Allowed: {allowed}. Variable: {}{platform}{reload}.", setting.variable())
}
