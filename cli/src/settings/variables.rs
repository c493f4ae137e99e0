//! Parses environment variables: `NAME=VALUE`.

use super::value::{Refusal, because, quoted};

/// Parses variables, `NAME=VALUE` each. Of duplicates the last one counts, as in a shell.
pub(super) fn parse(written: &[String]) -> Result<Vec<(String, String)>, Refusal> {
    let written = written.iter().filter(|text| !text.is_empty());
    let pairs = written.map(|text| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(because(format!("{} is not NAME=VALUE", quoted(text)))),
    });
    pairs.collect()
}

#[cfg(test)]
mod tests;
