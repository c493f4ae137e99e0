//! A parsed Rust file: syntax tree, identifiers and comments, each with its line.
//!
//! `syn` drops comments. They are found in the gaps between tokens, so that a `//` within a string
//! is not mistaken for one. Doc comments are tokens whose text begins with `///`, `//!`, `/**` or
//! `/*!`.

use std::ops::Range;

use proc_macro2::{TokenStream, TokenTree};

/// One parsed file.
pub(crate) struct Source {
    pub(crate) syntax: syn::File,
    /// All identifiers and keywords, including those in macro calls, with their lines.
    pub(crate) idents: Vec<(String, usize)>,
    /// All lines of comments, in order.
    pub(crate) comments: Vec<Comment>,
}

/// One line of a comment.
#[derive(Debug, PartialEq)]
pub(crate) struct Comment {
    /// The line number, from 1.
    pub(crate) line: usize,
    /// Columns from the start of the line to the end of the comment.
    pub(crate) width: usize,
    /// The text without slashes, asterisks and surrounding space.
    pub(crate) text: String,
    /// Whether it is a doc comment.
    pub(crate) doc: bool,
}

impl Source {
    /// # Errors
    ///
    /// If `text` does not parse.
    pub(crate) fn parse(text: &str) -> syn::Result<Self> {
        let syntax = syn::parse_file(text)?;
        let mut tokens = Tokens::default();
        tokens.collect(text.parse()?);
        let comments = tokens.comments(text);
        Ok(Self { syntax, idents: tokens.idents, comments })
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("comments", &self.comments).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Tokens {
    idents: Vec<(String, usize)>,
    /// The byte range of each token, in order.
    places: Vec<Range<usize>>,
}

impl Tokens {
    fn collect(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => {
                    self.places.push(group.span_open().byte_range());
                    self.collect(group.stream());
                    self.places.push(group.span_close().byte_range());
                }
                TokenTree::Ident(ident) => {
                    self.places.push(ident.span().byte_range());
                    self.idents.push((ident.to_string(), ident.span().start().line));
                }
                token => self.places.push(token.span().byte_range()),
            }
        }
    }

    fn comments(&self, text: &str) -> Vec<Comment> {
        let mut comments = Comments { text, line_starts: line_starts(text), found: Vec::new() };
        let mut end = 0;
        let mut doc = 0..0;
        for place in &self.places {
            // A doc comment is several tokens, each with the byte range of the whole comment.
            if place.start >= end {
                comments.gap(end..place.start);
            }
            let token = text.get(place.clone()).unwrap_or_default();
            if *place != doc && ["///", "//!", "/**", "/*!"].iter().any(|mark| token.starts_with(mark)) {
                doc = place.clone();
                comments.add(place.clone(), true);
            }
            end = end.max(place.end);
        }
        comments.gap(end..text.len());
        comments.found
    }
}

struct Comments<'a> {
    text: &'a str,
    line_starts: Vec<usize>,
    found: Vec<Comment>,
}

impl Comments<'_> {
    /// Finds the comments between two tokens. Everything else there is space.
    fn gap(&mut self, gap: Range<usize>) {
        let mut at = gap.start;
        while let Some(begin) = self.text[at..gap.end].find('/').map(|found| at + found) {
            let rest = &self.text[begin..gap.end];
            let length =
                if rest.starts_with("/*") { block(rest) } else { rest.find('\n').unwrap_or(rest.len()) };
            self.add(begin..begin + length, false);
            at = begin + length;
        }
    }

    fn add(&mut self, place: Range<usize>, doc: bool) {
        let first = self.line_starts.partition_point(|&start| start <= place.start);
        for (number, text) in self.text[place.clone()].lines().enumerate() {
            let before = if number == 0 { &self.text[self.line_starts[first - 1]..place.start] } else { "" };
            let width = before.chars().count() + text.trim_end().chars().count();
            let text = text.trim().trim_start_matches(['/', '*', '!']).trim_end_matches("*/").trim();
            self.found.push(Comment { line: first + number, width, text: text.to_owned(), doc });
        }
    }
}

/// The length of the block comment at the start of `text`. Block comments nest.
fn block(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn line_starts(text: &str) -> Vec<usize> {
    [0].into_iter().chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// Whether an item is built for tests only.
pub(crate) fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition = || attribute.parse_args::<TokenStream>().map(|tokens| tokens.to_string());
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg") && condition().is_ok_and(|condition| condition == "test")
    })
}

#[cfg(test)]
mod tests;
