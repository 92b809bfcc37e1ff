//! Rules about single source files: their shape, and that nothing unfinished stays in them.

use super::Finding;
use super::source::Source;
use super::tree::TextFile;

/// Module files are named by their noun, start with a module doc, and stay short.
pub(super) fn shape(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    if file.path.ends_with("/mod.rs") {
        let advice = "name the file by its module, `foo.rs` beside `foo/`";
        findings.push(Finding::new(&file.path, 1, "module file", advice));
    }
    let first = file.text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
    if !first.starts_with("//!") && !first.starts_with("#![doc = include_str!") {
        let advice = "start the file with `//!`: what it is, what it is not, where to start reading";
        findings.push(Finding::new(&file.path, 1, "module doc", advice));
    }
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        let advice = format!("{lines} lines; split the file by its nouns, {LINES_MAX} is the most");
        findings.push(Finding::new(&file.path, LINES_MAX + 1, "file length", advice));
    }
    findings
}

/// No placeholders, no debugging aids, no tests switched off.
pub(super) fn unfinished(path: &str, source: &Source) -> Vec<Finding> {
    let rules: [(&[&str], &str); 4] = [
        (&["todo", "!"], "write the missing part, or return an error that says what cannot be done"),
        (&["unimplemented", "!"], "write the missing part, or return an error that says what cannot be done"),
        (&["dbg", "!"], "remove the debugging aid; what is worth keeping goes through `tracing`"),
        (&["#", "ignore"], "make the test run, or delete it"),
    ];
    let mut findings = Vec::new();
    for (words, advice) in rules {
        findings.extend(source.lines_with(words).map(|line| Finding::new(path, line, "unfinished", advice)));
    }
    findings
}

/// The most lines a source file may have.
const LINES_MAX: usize = 800;

#[cfg(test)]
mod tests {
    use super::*;

    fn shape_rules(path: &str, text: &str) -> Vec<&'static str> {
        shape(&TextFile::new(path, text)).iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_short_documented_file_is_fine() {
        assert!(shape_rules("a/src/pond.rs", "\n//! A pond.\n").is_empty());
        assert!(shape_rules("a/src/lib.rs", "#![doc = include_str!(\"../README.md\")]\n").is_empty());
    }

    #[test]
    fn the_shape_of_a_file_is_checked() {
        assert_eq!(shape_rules("a/src/pond/mod.rs", "//! A pond.\n"), ["module file"]);
        assert_eq!(shape_rules("a/src/pond.rs", "// A pond.\n"), ["module doc"]);
        assert_eq!(shape_rules("a/src/pond.rs", ""), ["module doc"]);
        let exactly = format!("//! A pond.\n{}", "\n".repeat(LINES_MAX - 1));
        assert!(shape_rules("a/src/pond.rs", &exactly).is_empty());
        assert_eq!(shape_rules("a/src/pond.rs", &format!("{exactly}\n")), ["file length"]);
    }

    #[test]
    fn unfinished_code_is_found_where_it_stands() {
        let text = "fn a() {\n  todo!()\n}\nfn b() { unimplemented!(\"b\") }\n#[test]\n#[ignore = \"slow\"]\nfn c() { dbg!(1); }";
        let source = Source::parse(text).expect("it is Rust");
        let mut lines: Vec<_> = unfinished("a.rs", &source).iter().map(|finding| finding.line).collect();
        lines.sort_unstable();
        assert_eq!(lines, [2, 4, 6, 7]);
    }

    #[test]
    fn words_that_only_look_unfinished_are_fine() {
        let text = "//! todo!()\n#[cfg_attr(miri, ignore)]\nfn todo() { let ignore = \"dbg!(1)\"; }";
        assert!(unfinished("a.rs", &Source::parse(text).expect("it is Rust")).is_empty());
    }
}
