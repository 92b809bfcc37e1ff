//! Rust source as a flat row of tokens with their lines, so that rules do not fall for comments and strings.

use std::str::FromStr;

use proc_macro2::{Spacing, TokenStream, TokenTree};

/// The tokens of one file, in order, with the brackets of groups left out.
#[derive(Debug, Default)]
pub(super) struct Source {
    tokens: Vec<Token>,
}

#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
}

impl Source {
    /// Splits `text` into tokens; nothing if it is no Rust at all.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut source = Self::default();
        source.add(TokenStream::from_str(text).ok()?);
        Some(source)
    }

    /// The lines, counted from 1, where these tokens stand in a row.
    pub(super) fn lines_with<'a>(&'a self, words: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
        let matches = move |row: &&[Token]| row.iter().zip(words).all(|(token, word)| token.text == *word);
        self.tokens.windows(words.len()).filter(matches).map(|row| row[0].line)
    }

    fn add(&mut self, tokens: TokenStream) {
        // Signs that stand together are one token: `a != b` has no `!` of its own.
        let mut joined = false;
        for tree in tokens {
            let line = tree.span().start().line;
            let joins = matches!(&tree, TokenTree::Punct(sign) if sign.spacing() == Spacing::Joint);
            match tree {
                TokenTree::Group(group) => self.add(group.stream()),
                // A literal is kept, so that its neighbours do not become neighbours of each other.
                TokenTree::Literal(_) => self.tokens.push(Token { text: "literal".to_owned(), line }),
                TokenTree::Ident(word) => self.tokens.push(Token { text: word.to_string(), line }),
                TokenTree::Punct(sign) if joined => {
                    if let Some(token) = self.tokens.last_mut() {
                        token.text.push(sign.as_char());
                    }
                }
                TokenTree::Punct(sign) => self.tokens.push(Token { text: sign.as_char().to_string(), line }),
            }
            joined = joins;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, words: &[&str], expected: &[usize]) {
        let source = Source::parse(text).expect("the text is Rust");
        assert_eq!(source.lines_with(words).collect::<Vec<_>>(), expected, "{text}");
    }

    #[test]
    fn words_are_found_inside_groups_with_their_lines() {
        check("fn f() {\n  if x {\n    panic!()\n  }\n}\n", &["panic", "!"], &[3]);
        check("#[ignore]\nfn f() {}", &["#", "ignore"], &[1]);
    }

    #[test]
    fn comments_strings_and_other_words_are_not_code() {
        check("// panic!()\n/// panic!()\nfn f() { \"panic!()\"; r#\"panic!()\"#; }", &["panic", "!"], &[]);
        check("fn f() { panic != 1 }", &["panic", "!"], &[]);
        check("fn panicky() { no_panic(); }", &["panic"], &[]);
    }

    #[test]
    fn unbalanced_text_is_no_source() {
        assert!(Source::parse("fn f( {").is_none());
    }
}
