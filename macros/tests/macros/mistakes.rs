//! Each file of `tests/ui` is a mistake that users make, with what the compiler tells them; `tests/pass` is none.

#[test]
fn mistakes_are_told_in_words_that_help() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
    cases.pass("tests/pass/*.rs");
}
