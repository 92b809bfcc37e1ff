//! The text files of the workspace, read once.
//!
//! Build output and hidden folders are left out, except the few hidden ones that belong to the project.

use std::fs;
use std::path::Path;

use crate::facts::relative;

/// All text files below the workspace root, ordered by path.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The files.
    pub(super) files: Vec<TextFile>,
}

/// One text file.
#[derive(Debug)]
pub(super) struct TextFile {
    /// Relative to the workspace root, with forward slashes.
    pub(super) path: String,
    /// All of it.
    pub(super) text: String,
}

impl Tree {
    /// Reads the files below `root`. Files that are not UTF-8 are left out.
    ///
    /// # Errors
    /// When a folder or file cannot be read.
    pub(super) fn read(root: &Path) -> Result<Self, String> {
        let mut tree = Self::default();
        tree.read_folder(root, root).map_err(|error| format!("the workspace cannot be read: {error}"))?;
        tree.files.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(tree)
    }

    /// The Rust sources, but not those that a compiler test feeds to the compiler: they are wrong on purpose.
    pub(super) fn rust_files(&self) -> impl Iterator<Item = &TextFile> {
        self.files.iter().filter(|file| file.path.ends_with(".rs") && !is_compiler_input(&file.path))
    }

    /// The text of the file with that path; empty if there is none.
    pub(super) fn text(&self, path: &str) -> &str {
        self.files.iter().find(|file| file.path == path).map_or("", |file| &file.text)
    }

    fn read_folder(&mut self, folder: &Path, root: &Path) -> std::io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if kind.is_dir() && is_ours(&name) {
                self.read_folder(&entry.path(), root)?;
            } else if kind.is_file()
                && let Ok(text) = String::from_utf8(fs::read(entry.path())?)
            {
                self.files.push(TextFile { path: relative(&entry.path(), root), text });
            }
        }
        Ok(())
    }
}

impl TextFile {
    /// Whether the file is somewhere below that folder.
    pub(super) fn is_in(&self, folder: &str) -> bool {
        self.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The lines with their numbers, counted from 1.
    pub(super) fn numbered_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    #[cfg(test)]
    pub(super) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}

fn is_ours(folder: &str) -> bool {
    match folder.strip_prefix('.') {
        Some(hidden) => ["cargo", "ci", "config", "github"].contains(&hidden),
        None => folder != "target",
    }
}

/// Files in a folder below `tests/` of this name are input of the compiler, with the errors that it must print beside them.
fn is_compiler_input(path: &str) -> bool {
    ["/tests/ui/", "/tests/compile_fail/", "/tests/compile-fail/", "/tests/wording/"]
        .iter()
        .any(|folder| path.contains(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_output_and_foreign_hidden_folders_are_left_out() {
        let ours: Vec<_> = ["src", "target", ".git", ".ci", ".cargo", ".config"]
            .into_iter()
            .filter(|name| is_ours(name))
            .collect();
        assert_eq!(ours, ["src", ".ci", ".cargo", ".config"]);
    }

    #[test]
    fn compiler_input_is_no_source_of_ours() {
        let files = ["macros/tests/ui/bad.rs", "macros/tests/ui.rs"].map(|path| TextFile::new(path, ""));
        let tree = Tree { files: files.into() };
        assert_eq!(
            tree.rust_files().map(|file| file.path.as_str()).collect::<Vec<_>>(),
            ["macros/tests/ui.rs"]
        );
    }

    #[test]
    fn a_folder_is_not_its_namesakes() {
        assert!(TextFile::new("transport/src/lib.rs", "").is_in("transport"));
        assert!(!TextFile::new("transport-tcp/src/lib.rs", "").is_in("transport"));
    }
}
