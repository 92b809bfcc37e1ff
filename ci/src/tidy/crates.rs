//! Rules about each crate: it takes the lints of the workspace, and its front page shows it at work.

use super::Finding;
use super::tree::Tree;
use crate::facts::{Package, Workspace};

/// Every member says `lints.workspace = true`.
pub(super) fn lints_not_inherited(workspace: &Workspace, tree: &Tree) -> Vec<Finding> {
    let manifests = workspace.packages.iter().map(|package| format!("{}/Cargo.toml", package.folder));
    let careless = manifests.filter(|path| !inherits_lints(tree.text(path)));
    let advice = "add `[lints]` with `workspace = true`";
    careless.map(|path| Finding::new(&path, 1, "lints", advice)).collect()
}

/// The front page of every library has an example that is compiled. A macro crate has nothing to show by itself.
pub(super) fn front_pages_without_example(workspace: &Workspace, tree: &Tree) -> Vec<Finding> {
    let libraries = workspace.packages.iter().filter_map(|package| Some((package, package.target("lib")?)));
    let advice = "show the crate at work in the `//!` doc, in a ``` block that is compiled";
    libraries
        .filter(|(package, library)| !has_example(&front_page(package, tree.text(&library.source), tree)))
        .map(|(_, library)| Finding::new(&library.source, 1, "front page", advice))
        .collect()
}

fn inherits_lints(manifest: &str) -> bool {
    let mut table = "";
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            table = line;
        }
        let entry: String = line.split_whitespace().collect();
        if (table == "[lints]" && entry == "workspace=true")
            || (table.is_empty() && entry == "lints.workspace=true")
        {
            return true;
        }
    }
    false
}

/// What the documentation shows first: the `//!` lines, and the file that the root includes as documentation.
fn front_page(package: &Package, root: &str, tree: &Tree) -> String {
    let lines = root.lines().filter_map(|line| line.strip_prefix("//!"));
    let mut page: String = lines.flat_map(|line| [line.trim(), "\n"]).collect();
    let included = root.lines().find_map(|line| line.strip_prefix("#![doc = include_str!(\""));
    if let Some((path, _)) = included.and_then(|rest| rest.split_once('"')) {
        page.push_str(tree.text(&beside_root(package, path)));
    }
    page
}

/// The path of a file that `src/lib.rs` names by a path relative to itself.
fn beside_root(package: &Package, path: &str) -> String {
    let mut parts: Vec<_> = package.folder.split('/').chain(["src"]).collect();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether a code block opens that rustdoc compiles: its words are all about Rust.
fn has_example(page: &str) -> bool {
    let mut fences = page.lines().filter_map(|line| line.trim().strip_prefix("```"));
    let compiled = |word: &str| ["", "rust", "no_run", "should_panic", "edition2024"].contains(&word.trim());
    // Fences come in pairs; the first of a pair carries the words.
    while let Some(words) = fences.next() {
        if words.split(',').all(compiled) {
            return true;
        }
        fences.next();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Target;
    use crate::tidy::tree::TextFile;

    fn library(kind: &str) -> Workspace {
        let target =
            Target { name: "pond".to_owned(), kind: kind.to_owned(), source: "pond/src/lib.rs".to_owned() };
        let package = Package {
            name: "pond".to_owned(),
            folder: "pond".to_owned(),
            targets: vec![target],
            ..Package::default()
        };
        Workspace { packages: vec![package], ..Workspace::default() }
    }

    fn check_front_page(text: &str, fine: bool) {
        let tree = Tree {
            files: vec![
                TextFile::new("pond/src/lib.rs", text),
                TextFile::new("README.md", "```rust\nx\n```"),
            ],
        };
        assert_eq!(front_pages_without_example(&library("lib"), &tree).is_empty(), fine, "{text}");
    }

    #[test]
    fn a_front_page_has_a_compiled_example() {
        check_front_page("//! A pond.\n//!\n//! ```\n//! pond::fill();\n//! ```\n", true);
        check_front_page("//! ```text\n//! drawing\n//! ```\n//! ```no_run\n//! x();\n//! ```\n", true);
        check_front_page("#![doc = include_str!(\"../../README.md\")]\n", true);
        check_front_page("//! A pond.\n", false);
        check_front_page("//! ```text\n//! drawing\n//! ```\n", false);
        check_front_page("//! ```ignore\n//! x();\n//! ```\n", false);
        check_front_page("//! A pond.\n\n/// ```\n/// pond::fill();\n/// ```\npub fn fill() {}\n", false);
    }

    #[test]
    fn macro_crates_and_programs_need_no_example() {
        assert!(front_pages_without_example(&library("proc-macro"), &Tree::default()).is_empty());
        assert!(front_pages_without_example(&library("bin"), &Tree::default()).is_empty());
    }

    #[test]
    fn a_manifest_inherits_the_lints() {
        assert!(inherits_lints("[package]\nname = \"pond\"\n\n[lints]\nworkspace = true\n"));
        assert!(inherits_lints("lints.workspace = true\n"));
        assert!(!inherits_lints("[lints]\n[dependencies]\nworkspace = true\n"));
        assert!(!inherits_lints(""));
        assert_eq!(lints_not_inherited(&library("lib"), &Tree::default()).len(), 1);
    }
}
