//! Each file of `tests/ui` is a mistake that users make, with what the compiler tells them.

#[test]
fn mistakes_are_told_in_words_that_help() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}
