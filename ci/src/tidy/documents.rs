//! Rules about the documents a newcomer meets first: they name the commands that there are.

use super::Finding;
use super::tree::Tree;

/// README.md tells how to test the project and how to see it run.
pub(super) fn readme_without_commands(tree: &Tree) -> Vec<Finding> {
    let text = tree.text("README.md");
    let missing = ["cargo ci test", "cargo ci demo"].into_iter().filter(|command| !text.contains(command));
    missing.map(|command| Finding::new("README.md", 1, "readme", format!("name `{command}`"))).collect()
}

/// The script that automation calls does what README.md tells people to do.
pub(super) fn ci_script_without_test(tree: &Tree) -> Vec<Finding> {
    let calls = |line: &str| line.trim() == "cargo ci test" || line.trim() == "exec cargo ci test";
    if tree.text(".ci/run").lines().any(calls) {
        return Vec::new();
    }
    vec![Finding::new(".ci/run", 1, "ci script", "call `cargo ci test` on a line of its own")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::TextFile;

    fn tree(path: &str, text: &str) -> Tree {
        Tree { files: vec![TextFile::new(path, text)] }
    }

    #[test]
    fn the_readme_names_both_commands() {
        assert!(readme_without_commands(&tree("README.md", "`cargo ci test`, `cargo ci demo`")).is_empty());
        assert_eq!(readme_without_commands(&tree("README.md", "`cargo ci demo`")).len(), 1);
        assert_eq!(readme_without_commands(&Tree::default()).len(), 2);
    }

    #[test]
    fn the_script_runs_the_tests() {
        assert!(ci_script_without_test(&tree(".ci/run", "set -e\ncargo ci test\n")).is_empty());
        assert_eq!(ci_script_without_test(&tree(".ci/run", "# cargo ci test\n")).len(), 1);
        assert_eq!(ci_script_without_test(&Tree::default()).len(), 1);
    }
}
