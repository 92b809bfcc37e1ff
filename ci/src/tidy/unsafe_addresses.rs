//! Where unsafe code may live: in the files that `unsafe_addresses.txt` lists, and nowhere else.
//!
//! The list is checked both ways, so that it always tells a reader where to look.

use super::Finding;
use super::source::Source;

/// Compares the list with the sources, given by path.
pub(super) fn check(list: &str, sources: &[(&str, Source)]) -> Vec<Finding> {
    let listed: Vec<_> =
        (1..).zip(list.lines().map(str::trim)).filter(|(_, line)| is_address(line)).collect();
    let mut findings = Vec::new();
    for (path, source) in sources {
        if let Some(line) = first_unsafe(source)
            && !listed.iter().any(|(_, address)| address == path)
        {
            let advice = format!(
                "unsafe code outside its addresses; do without, move it to one, or add this file to {LIST}"
            );
            findings.push(Finding::new(path, line, "unsafe address", advice));
        }
    }
    for (number, address) in listed {
        let in_use = sources.iter().any(|(path, source)| *path == address && first_unsafe(source).is_some());
        if !in_use {
            let advice = format!("`{address}` has no unsafe code (any more); remove the line");
            findings.push(Finding::new(LIST, number, "unsafe address", advice));
        }
    }
    findings
}

/// The list, relative to the workspace root.
pub(super) const LIST: &str = "ci/src/tidy/unsafe_addresses.txt";

/// The first line with unsafe code, or with leave for it. Forbidding it is no leave.
fn first_unsafe(source: &Source) -> Option<usize> {
    let rows: [&[&str]; 4] =
        [&["unsafe"], &["allow", "unsafe_code"], &["expect", "unsafe_code"], &["warn", "unsafe_code"]];
    rows.iter().filter_map(|row| source.lines_with(row).next()).min()
}

fn is_address(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(list: &str, sources: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> =
            sources.iter().map(|&(path, text)| (path, Source::parse(text).expect("it is Rust"))).collect();
        check(list, &sources).iter().map(|finding| format!("{}:{}", finding.path, finding.line)).collect()
    }

    const UNSAFE: &str = "#![expect(unsafe_code, reason = \"ring\")]\nfn f() { unsafe { g() } }";

    #[test]
    fn listed_files_may_hold_unsafe_code() {
        assert!(
            places("# why\n\na/src/ring.rs\n", &[("a/src/ring.rs", UNSAFE), ("a/src/lib.rs", "fn f() {}")])
                .is_empty()
        );
    }

    #[test]
    fn unsafe_code_elsewhere_is_found() {
        assert_eq!(places("", &[("a/src/ring.rs", UNSAFE)]), ["a/src/ring.rs:1"]);
        assert_eq!(
            places("", &[("a/src/ring.rs", "fn f() {}\nunsafe impl Send for R {}")]),
            ["a/src/ring.rs:2"]
        );
        assert_eq!(
            places("", &[("a/src/ring.rs", "fn f() {}\n#[unsafe(no_mangle)]\nfn g() {}")]),
            ["a/src/ring.rs:2"]
        );
    }

    #[test]
    fn talk_of_unsafe_code_and_forbidding_it_are_fine() {
        let text = "//! No unsafe code.\n#![forbid(unsafe_code)]\nfn f() -> &'static str { \"unsafe\" }";
        assert!(places("", &[("a/src/lib.rs", text)]).is_empty());
    }

    #[test]
    fn a_stale_line_is_found() {
        assert_eq!(places("# why\ngone.rs\n", &[]), [format!("{LIST}:2")]);
        assert_eq!(places("a/src/lib.rs\n", &[("a/src/lib.rs", "fn f() {}")]), [format!("{LIST}:1")]);
    }
}
