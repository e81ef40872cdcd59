//! The texts in the code: what a user may get to read.

use proc_macro2::{TokenStream, TokenTree};

use super::imports::without_tests;

/// The texts of a file, its comments left out, and with them those of inline modules for tests. The help of the command line
/// is in its comments, which are texts too `with_docs`.
pub fn texts(source: &str, with_docs: bool) -> Vec<String> {
    let tokens: TokenStream = source.parse().unwrap_or_else(|error| panic!("{error}:\n{source}"));
    let mut found = Vec::new();
    gather(tokens, with_docs, &mut found);
    found
}

fn gather(tokens: TokenStream, with_docs: bool, found: &mut Vec<String>) {
    for token in without_tests(tokens) {
        match token {
            TokenTree::Group(group) if with_docs || !is_doc(group.stream()) => gather(group.stream(), with_docs, found),
            TokenTree::Literal(literal) => found.push(literal.to_string()),
            _ => {}
        }
    }
}

/// `doc = "…"`, which a `///` stands for.
fn is_doc(attribute: TokenStream) -> bool {
    let mut tokens = attribute.into_iter();
    matches!(tokens.next(), Some(TokenTree::Ident(word)) if word == "doc")
        && matches!(tokens.next(), Some(TokenTree::Punct(punct)) if punct.as_char() == '=')
}

#[test]
fn comments_and_tests_are_no_texts_but_help_is() {
    let source = "//! RabbitMQ\n/// help\nfn f() { m!(\"text\"); /* RabbitMQ */ }\n#[cfg(test)] mod t { const S: &str = \"RabbitMQ\"; }";
    assert_eq!(texts(source, false), ["\"text\""]);
    assert_eq!(texts(source, true).len(), 3);
}
