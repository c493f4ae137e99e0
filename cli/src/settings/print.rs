//! `--print-config`: prints the settings as a settings file, with their sources as comments.

use super::layers::Origin;

/// Formats the settings as a file.
pub(crate) fn printed(origins: &[Origin]) -> String {
    let lines: Vec<_> = origins.iter().map(|o| format!("{} = {}", o.setting.name, o.value)).collect();
    let width = lines.iter().map(String::len).max().unwrap_or_default();
    let mut text = String::new();
    let mut category = None;
    for (origin, line) in origins.iter().zip(lines) {
        if category.replace(origin.setting.category) != Some(origin.setting.category) {
            let gap = if text.is_empty() { "" } else { "\n" };
            text += &format!("{gap}# {}\n", origin.setting.category);
        }
        // A file name may contain a line break, which would end the comment.
        text += &format!("{line:width$}  # {}\n", origin.whence.replace(char::is_control, "?"));
    }
    text
}
